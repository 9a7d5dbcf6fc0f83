"""Proves before a run that repositories can be worked on where they are to be."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cispo.errors import SandboxUnavailableError
from sandboxes.base import Limits, Program
from sandboxes.swe.packages import python_version
from sandboxes.workspace import Workspace, WorkspaceLostError, give_away
from sandboxes.workspaces import Session, Workspaces

_LIMITS = Limits(
    cpu_seconds=20.0,
    wall_seconds=120.0,
    memory_bytes=256 * 2**20,
    max_processes=16,
    output_bytes=4096,
)
_GIVEN = "as it was"
_VERSION = "import sys; print('%d.%d' % sys.version_info[:2])"
_WRITE = "open('given', 'a').write('changed'); open('more', 'w').write('new')"


async def prove(workspaces: Workspaces, *, scratch: Path) -> tuple[str, ...]:
    """Attack the sandbox, then use a workspace of it; return the layers that held.

    Args:
        workspaces: What is to be proved.
        scratch: Folder that jails can reach, made if it is not there.

    Raises:
        SandboxUnavailableError: Something that tasks need is missing; the message names the setting
            and says what to change.
    """
    layers = await workspaces.probe()
    with _base(scratch) as base:
        try:
            async with workspaces.open(Workspace(base=base), _LIMITS) as session:
                await _prove_session(session)
        except WorkspaceLostError as error:
            raise SandboxUnavailableError(f"sandbox layer workspaces: {error}") from error
    return layers


@contextmanager
def _base(scratch: Path) -> Iterator[Path]:
    """Make a folder, and see in the end that nobody changed it."""
    scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=scratch, prefix="proof-") as name:
        folder = Path(name)
        (folder / "given").write_text(_GIVEN)
        folder.chmod(0o755)
        give_away(folder)
        yield folder
        if [path.read_text() for path in folder.iterdir()] != [_GIVEN]:
            raise SandboxUnavailableError("sandbox layer workspaces: a program changed the base")


async def _prove_session(session: Session) -> None:
    version = await _say(session, "python3", "-I", "-S", "-c", _VERSION)
    if version != python_version():
        raise SandboxUnavailableError(
            f"sandbox.backend: repositories would run with Python {version or '(none)'}, and their "
            f"packages are installed for Python {python_version()}, that of this host; choose a "
            "sandbox.image, or sandbox.hosts, with the same version"
        )
    for tool in ("bash", "git"):
        if not await _say(session, tool, "--version"):
            raise SandboxUnavailableError(
                f"sandbox.image: there is no {tool}, which agents in repositories need; choose an "
                "image with python3, bash and git"
            )
    await _say(session, "python3", "-I", "-S", "-c", _WRITE)
    changes = await session.changes(max_bytes=2**16)
    written = {change.path: change.content for change in changes}
    if written != {"given": f"{_GIVEN}changed".encode(), "more": b"new"}:
        raise SandboxUnavailableError(
            f"sandbox layer workspaces: {sorted(written)} came out where 2 files were written"
        )


async def _say(session: Session, *command: str) -> str:
    ran = await session.run(Program(argv=command), _LIMITS)
    return ran.result.stdout.decode(errors="replace").strip() if ran.result.exit_code == 0 else ""
