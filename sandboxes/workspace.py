"""Copy-on-write workspaces: a folder of the machine that programs may change without changing it.

    workspace = Workspace(base=Path("/envs/repo"), read_only={"/opt/venv": Path("/envs/venv")})
    async with open_workspace(BubblewrapSandbox(), workspace, limits) as session:
        ran = await session.run(Program(argv=("git", "diff")), limits)   # starts in /workspace
        ran.result.stdout
        for change in await session.changes(max_bytes=2**20): ...
        content = await session.read("src/a.py", max_bytes=2**16)

All programs of a session see the same `/workspace` and the same `/tmp`, both in memory and bounded
together; each has a process namespace of its own, so nothing that it starts outlives it. They run
one at a time, in a jail of their own with the limits of `sandboxes.base.Limits` (`tmp_bytes` sizes
`/dev/shm` and the largest file). `base` must belong to the sandbox's own user (see `give_away`).

What comes out of a workspace comes through a pipe from code of ours in the jail, which follows no
link and reads regular files alone: the machine's own files are out of its reach.

A program may get a private pipe, descriptor 3 (`result_bytes`). A trusted driver in the jail that
is to keep it from what it starts hides itself (`prctl(PR_SET_DUMPABLE, 0)`) and leaves the
descriptor closed on exec.
"""

import json
import os
import posixpath
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from sandboxes.base import ExecResult, Limits, Program
from sandboxes.bubblewrap import BubblewrapSandbox
from sandboxes.fork_server import ForkServer, Run, ServerLostError
from sandboxes.jail_command import SANDBOX_UID

WORKSPACE = "/workspace"
"""Where programs see their workspace."""

_SOURCES = "/mnt"
_BYTES_A_FILE = 4096
_RECORD_BYTES = 512


class WorkspaceLostError(Exception):
    """The jail of a session did not start, or is gone, which is no fault of a program."""


class ChangeKind(StrEnum):
    """What became of a path."""

    FILE = "file"
    LINK = "link"
    FOLDER = "folder"
    REPLACED = "replaced"
    REMOVED = "removed"
    SPECIAL = "special"
    MISSING = "missing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One path that programs wrote; hostile in every field.

    Attributes:
        path: Relative to the workspace, `/` between its parts.
        kind: `FILE` and `LINK` are new or changed; `FOLDER` holds changes or is new, `REPLACED`
            also hides all that it held before; `SPECIAL` is a pipe, socket or device.
        mode: Permission bits.
        content: A file's bytes, a link's target.
    """

    path: str
    kind: ChangeKind
    mode: int
    content: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Workspace:
    """What a session's programs see.

    Attributes:
        base: Folder that `/workspace` starts as; it is never written.
        read_only: Folders and files of the machine by their absolute place in the jail, which may
            lie in `/workspace` and then covers what is there.
        environment: Variables beside those that every program has.
        write_bytes: How much may be written to `/workspace` and `/tmp` together; it counts as
            memory.
        max_files: How many files may be written.
    """

    base: Path
    read_only: Mapping[str, Path] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    write_bytes: int = 256 * 2**20
    max_files: int = 65536

    def __post_init__(self) -> None:
        if not self.base.is_dir():
            raise ValueError(f"base {self.base} is no folder")
        if set(str(self.base.resolve())) & set(":,\\\n"):
            raise ValueError(f"base {self.base} has a character in it that overlays cannot take")
        for place, source in self.read_only.items():
            if place != posixpath.normpath(place) or not place.startswith("/") or place == "/":
                raise ValueError(f"read_only place {place!r} is no plain absolute path")
            if not source.exists():
                raise ValueError(f"read_only {place}: {source} does not exist")
        for name in ("write_bytes", "max_files"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be > 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What a program of a session did.

    Attributes:
        result: As of any sandbox.
        private: What came through its private pipe, cut at the limit.
    """

    result: ExecResult
    private: bytes


class WorkspaceSession:
    """Runs programs one after the other in one workspace; made by `open_workspace`."""

    def __init__(
        self, server: ForkServer, *, environment: Mapping[str, str], covered: Collection[str]
    ) -> None:
        """Take a server that is ready.

        Args:
            server: The jail.
            environment: Variables of its programs.
            covered: Paths in the workspace that something of ours lies on.
        """
        self._server = server
        self._environment = environment
        self._covered = frozenset(covered)

    async def run(
        self,
        program: Program,
        limits: Limits,
        *,
        cwd: str = WORKSPACE,
        environment: Mapping[str, str] | None = None,
        result_bytes: int = 0,
    ) -> Ran:
        """Run one program; its files lie in `/tmp`. A program never raises.

        Args:
            program: What to run.
            limits: For it and all that it starts.
            cwd: Where it starts.
            environment: Variables beside the session's.
            result_bytes: Most that it may write to its private pipe; 0 makes none.
        """
        variables = {**self._environment, **(environment or {})}
        how = Run(environment=variables, cwd=cwd, result_bytes=result_bytes)
        result, private = await self._server.run(program, limits, how)
        return Ran(result=result, private=private)

    @property
    def is_lost(self) -> bool:
        """Whether the jail is of no more use: it was killed, a run was cancelled or survived."""
        return self._server.is_sick

    async def changes(self, *, max_bytes: int) -> tuple[Change, ...]:
        """Return all that was written to `/workspace`, folders before what they hold.

        Raises:
            ValueError: It is more than `max_bytes`, about 512 for each path included.
            WorkspaceLostError: The jail is gone.
        """
        found = await self._ask({"do": "changes"}, max_bytes)
        return tuple(change for change in found if change.path not in self._covered)

    async def read(self, path: str, *, max_bytes: int) -> Change:
        """Return one regular file as it is now, cut at `max_bytes`; see `Change.kind`.

        `MISSING` where it does not exist, lies behind a link, or cannot be read.

        Raises:
            ValueError: The path is not relative and plain.
            WorkspaceLostError: The jail is gone.
        """
        check_path(path)
        request = {"do": "read", "path": path, "max_bytes": max_bytes}
        [change] = await self._ask(request, max_bytes + _RECORD_BYTES + 6 * len(path))
        return change

    async def _ask(self, request: Mapping[str, object], max_bytes: int) -> list[Change]:
        try:
            answer = await self._server.ask(json.dumps(request).encode(), max_bytes=max_bytes)
        except (ServerLostError, OSError) as error:
            raise WorkspaceLostError(str(error)) from error
        return list(read_records(answer))


@asynccontextmanager
async def open_workspace(
    jails: BubblewrapSandbox, workspace: Workspace, limits: Limits
) -> AsyncIterator[WorkspaceSession]:
    """Open a session, and remove all of it at the end.

    Args:
        jails: Makes the jail.
        workspace: What its programs see.
        limits: Of the whole session in memory (with what is written) and processes.

    Raises:
        WorkspaceLostError: The jail did not start; the message says why.
    """
    shown = {f"{_SOURCES}/base": workspace.base}
    inside = []  # what lies over the overlay can be bound only once that is mounted
    for number, (place, source) in enumerate(workspace.read_only.items()):
        if _is_below(place, WORKSPACE):
            inside.append((f"{_SOURCES}/{number}", place))
        shown[f"{_SOURCES}/{number}" if _is_below(place, WORKSPACE) else place] = source
    try:
        server = jails.start_server(
            limits,
            workspace={
                "base": f"{_SOURCES}/base",
                "target": WORKSPACE,
                "bytes": workspace.write_bytes,
                "files": workspace.max_files,
                "binds": inside,
                "hidden": _SOURCES,
            },
            shown={place: path.resolve() for place, path in shown.items()},
            folders=(WORKSPACE,),
        )
    except OSError as error:
        raise WorkspaceLostError(f"the jail could not be started: {error}") from error
    try:
        await server.ready()
        yield WorkspaceSession(
            server,
            environment={**jails.environment, **workspace.environment},
            covered=[posixpath.relpath(place, WORKSPACE) for _, place in inside],
        )
    except ServerLostError as error:
        raise WorkspaceLostError(str(error)) from error
    finally:
        server.close()


def give_away(folder: Path) -> None:
    """Give a folder with all it holds to the user that jails run as, where this process is root.

    Programs in a jail can only replace what belongs to that user.

    Raises:
        OSError: The kernel refused.
    """
    if os.geteuid() != 0:
        return
    for path in (folder, *folder.rglob("*")):
        os.chown(path, SANDBOX_UID, SANDBOX_UID, follow_symlinks=False)


def check_path(path: str) -> None:
    """Refuse a path that is not relative and plain.

    Raises:
        ValueError: It does not stay in the workspace, or is no text that names a file.
    """
    if path != posixpath.normpath(path) or path.startswith(("/", "..")) or "\0" in path:
        raise ValueError(f"path {path!r} does not stay in the workspace")
    path.encode()


def _is_below(place: str, folder: str) -> bool:
    return place == folder or place.startswith(f"{folder}/")


def read_records(answer: bytes) -> Iterator[Change]:
    """Read what `sandboxes.inside.changes` answered."""
    position = 0
    while position < len(answer):
        end = answer.index(b"\n", position)
        record = json.loads(answer[position:end])
        position = end + 1 + record["length"]
        content = answer[end + 1 : position]
        yield Change(
            path=record["path"],
            kind=ChangeKind(record["kind"]),
            mode=record["mode"],
            content=content,
        )
