"""Python packages of this process that programs in jails may import."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from cispo.errors import SandboxUnavailableError
from sandboxes.interpreter import Interpreter, others_can_reach

PACKAGES = "/opt/packages"
"""Where jails see them."""

_VERSION = "import sys; print(*sys.version_info[:2])"


def package_mounts(names: Sequence[str], *, python: Interpreter) -> dict[str, Path]:
    """Return the folders of packages, and of all that they need, by their place in a jail.

    Args:
        names: Names of distributions.
        python: The Python of the jail.

    Raises:
        SandboxUnavailableError: A package is not installed, cannot be read by the sandbox's own
            user, or is for another version of Python than the jail's.
    """
    ours, theirs = sys.version_info[:2], _version(python)
    if ours != theirs:
        raise SandboxUnavailableError(
            f"sandbox.preload={list(names)}: the packages are for Python {ours[0]}.{ours[1]} and "
            f"jails have {theirs[0]}.{theirs[1]}; run the framework on the system's version, or "
            "preload nothing"
        )
    found = {}
    for package in _with_requirements(names, seen=set()):
        for name in {Path(file).parts[0] for file in package.files or ()}:
            path = Path(str(package.locate_file(name))).resolve()
            if name == ".." or name.endswith(".dist-info") or not path.exists():
                continue
            if not others_can_reach(path.parent) or not path.stat().st_mode & 0o004:
                raise SandboxUnavailableError(
                    f"sandbox.preload={list(names)}: the sandbox's own user cannot read {path}; "
                    "install the framework where others may read, or preload nothing"
                )
            found[f"{PACKAGES}/{name}"] = path
    return found


def _with_requirements(names: Sequence[str], *, seen: set[str]) -> Iterator[Distribution]:
    for name in names:
        if name in seen:
            continue
        seen.add(name)
        try:
            package = distribution(name)
        except PackageNotFoundError as error:
            raise SandboxUnavailableError(
                f"sandbox.preload: {name!r} is not installed; `pip install {name}`"
            ) from error
        yield package
        needed = [text for text in package.requires or () if ";" not in text]
        yield from _with_requirements([_name(text) for text in needed], seen=seen)


def _name(requirement: str) -> str:
    """Return the name at the beginning of a requirement."""
    end = next(
        (at for at, sign in enumerate(requirement) if not (sign.isalnum() or sign in "-_.")),
        len(requirement),
    )
    return requirement[:end]


def _version(python: Interpreter) -> tuple[int, ...]:
    command = [f"{python.host_folder}/python3", "-I", "-S", "-c", _VERSION]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    return tuple(map(int, ended.stdout.split()))
