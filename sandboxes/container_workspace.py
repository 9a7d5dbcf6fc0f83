"""Workspaces in containers: a copy of the base in memory, and a process 1 of ours that runs things.

A container may mount nothing once it runs, so that its workspace is no overlay: `/workspace` is a
folder in memory into which process 1 copies the base before the first program, and a comparison
with the base, which lies beside it read-only, tells what was written. Files that are shown over
the workspace are mounted by the engine. The folders that hold them are the engine's too, so each is
a folder in memory of its own, where programs may write.
"""

import asyncio
import contextlib
import json
import posixpath
import tempfile
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from sandboxes.base import ExecResult, Limits, Outcome, Program, lost
from sandboxes.bootstrap import encode_start, inside_command
from sandboxes.container import PROGRAM_PATH, ContainerSandbox
from sandboxes.jail import KILLED_FOR_CPU_TIME
from sandboxes.jail_command import process_limits, program_environment
from sandboxes.workspace import (
    WORKSPACE,
    Change,
    Ran,
    Workspace,
    WorkspaceLostError,
    check_path,
    read_records,
)

_BASE = "/mnt/base"
_INSIDE = (
    *("processor_time", "inside.kernel", "inside.payload", "inside.usage"),
    *("inside.changes", "inside.copied", "inside.boxed_session"),
)
_START_SECONDS = 180.0
_GRACE_SECONDS = 60.0
_HEAD_BYTES = 2**20
_ERROR_BYTES = 4096
_SHARE = 8  # of the memory: for /tmp, and for /dev/shm
_WORKSPACE_SHARE = 2
_TRUST_GIT = {  # /workspace itself is the engine's, which git mistrusts
    "GIT_CONFIG_COUNT": "1",
    "GIT_CONFIG_KEY_0": "safe.directory",
    "GIT_CONFIG_VALUE_0": "*",
}


class ContainerSession:
    """Runs programs one after the other in one container; made by `ContainerWorkspaces.open`."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        *,
        environment: Mapping[str, str],
        covered: Collection[str],
    ) -> None:
        """Take a container.

        Args:
            process: The engine's, with pipes to process 1.
            environment: Variables of its programs.
            covered: Paths in the workspace that something of ours lies on.
        """
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._orders = process.stdin
        self._answers = process.stdout
        self._environment = environment
        self._covered = frozenset(covered)

    async def begin(self, seccomp: bytes) -> None:
        """Have the base copied.

        Raises:
            WorkspaceLostError: It does not fit, or the container did not start.
        """
        covered = sorted(self._covered)
        head = {"do": "open", "base": _BASE, "target": WORKSPACE, "covered": covered}
        await self._ask(head, [seccomp], seconds=_START_SECONDS)

    async def run(
        self,
        program: Program,
        limits: Limits,
        *,
        cwd: str = WORKSPACE,
        environment: Mapping[str, str] | None = None,
        result_bytes: int = 0,
    ) -> Ran:
        """Run one program; see `sandboxes.workspace.WorkspaceSession.run`."""
        start = encode_start(
            program.argv,
            environment={**self._environment, **(environment or {})},
            cwd=cwd,
            limits=process_limits(limits, has_cgroup=True),
            tmp_bytes=limits.tmp_bytes,
            files=program.files,
        )
        head = {
            "do": "run",
            "cpu_seconds": limits.cpu_seconds,
            "wall_seconds": limits.wall_seconds,
            "cpus": limits.cpus,
            "caps": [limits.output_bytes] * 2 + ([result_bytes] if result_bytes else []),
        }
        started = time.monotonic()
        try:
            said, outputs = await self._ask(
                head, [start, program.stdin], seconds=limits.wall_seconds + _GRACE_SECONDS
            )
        except WorkspaceLostError as error:
            return Ran(result=lost(str(error)), private=b"")
        stdout, stderr, *private = outputs
        outcome = _outcome(said, limits)
        result = ExecResult(
            outcome=outcome,
            exit_code=said["status"] if outcome is Outcome.EXITED else None,
            stdout=stdout,
            stderr=stderr if outcome is not Outcome.LOST else b"the program was lost: " + stderr,
            cpu_seconds=said["cpu_seconds"],
            wall_seconds=time.monotonic() - started,
        )
        return Ran(result=result, private=private[0] if private else b"")

    async def changes(self, *, max_bytes: int) -> tuple[Change, ...]:
        """Return all that was written; see `sandboxes.workspace.WorkspaceSession.changes`."""
        answer = await self._request({"do": "changes", "max_bytes": max_bytes})
        if len(answer) > max_bytes:
            raise ValueError(f"the answer has more than {max_bytes} bytes")
        found = read_records(answer)
        return tuple(change for change in found if change.path not in self._covered)

    async def read(self, path: str, *, max_bytes: int) -> Change:
        """Return one regular file; see `sandboxes.workspace.WorkspaceSession.read`."""
        check_path(path)
        request = {"do": "read", "path": path, "max_bytes": max_bytes}
        [change] = read_records(await self._request(request))
        return change

    async def _request(self, request: Mapping[str, object]) -> bytes:
        _, [answer] = await self._ask(
            {"do": "ask"}, [json.dumps(request).encode()], seconds=_START_SECONDS
        )
        return answer

    async def _ask(
        self, head: Mapping[str, object], parts: Sequence[bytes], *, seconds: float
    ) -> tuple[Mapping[str, Any], list[bytes]]:
        """Send an order and return the answer; all that comes is from our own process 1.

        Raises:
            WorkspaceLostError: It failed or is gone; the message says how.
        """
        line = json.dumps({**head, "lengths": [len(part) for part in parts]}).encode()
        try:
            async with asyncio.timeout(seconds):
                self._orders.writelines([line, b"\n", *parts])
                await self._orders.drain()
                said = json.loads(await self._answers.readline())
                given = [await self._answers.readexactly(length) for length in said["lengths"]]
        except (OSError, ValueError, EOFError, TimeoutError) as error:
            raise WorkspaceLostError(await self._last_words(error)) from error
        if said["do"] == "failed":
            raise WorkspaceLostError(said["error"])
        return said, given

    async def _last_words(self, error: Exception) -> str:
        assert self._process.stderr is not None
        self._orders.close()
        words = b""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5.0):
                words = await self._process.stderr.read(_ERROR_BYTES)
        said = words.decode(errors="replace").strip()
        return f"the container is gone: {said or error or type(error).__name__}"


class ContainerWorkspaces:
    """Workspaces in containers of this host."""

    def __init__(self, containers: ContainerSandbox) -> None:
        """Take what makes containers; `close` also closes it."""
        self._containers = containers

    @asynccontextmanager
    async def open(self, workspace: Workspace, limits: Limits) -> AsyncIterator[ContainerSession]:
        """Open a session; see `sandboxes.workspaces.Workspaces`."""
        shown = {_BASE: workspace.base, **workspace.read_only}
        covered = [
            posixpath.relpath(place, WORKSPACE)
            for place in workspace.read_only
            if place.startswith(f"{WORKSPACE}/")
        ]
        name, command = self._containers.workspace_command(
            inside_command(_INSIDE, "main", ""),
            replace(limits, tmp_bytes=min(limits.tmp_bytes, limits.memory_bytes // _SHARE)),
            scratch=_folders(covered, limits.memory_bytes // _WORKSPACE_SHARE),
            shown={place: _mountable(path.resolve()) for place, path in shown.items()},
        )
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                cwd=tempfile.gettempdir(),
                limit=_HEAD_BYTES,
                start_new_session=True,
            )
        except OSError as error:
            raise WorkspaceLostError(f"the container could not be started: {error}") from error
        environment = {**program_environment(PROGRAM_PATH), **_TRUST_GIT, **workspace.environment}
        session = ContainerSession(process, environment=environment, covered=covered)
        try:
            await session.begin(self._containers.filter)
            yield session
        finally:
            await self._end(process, name)

    async def probe(self) -> tuple[str, ...]:
        """Prove the sandbox; see `sandboxes.base.Sandbox.probe`."""
        return await self._containers.probe()

    async def close(self) -> None:
        """Wait for containers that are being removed."""
        await self._containers.close()

    async def _end(self, process: asyncio.subprocess.Process, name: str) -> None:
        """Let process 1 end, which ends all; a container that stays is removed."""
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(_GRACE_SECONDS):
                await process.communicate()
        except TimeoutError:
            process.kill()
            self._containers.remove_later(name)
        except asyncio.CancelledError:
            self._containers.remove_later(name)
            raise


def _folders(covered: Sequence[str], num_bytes: int) -> dict[str, int]:
    """Return the folders in memory, each with its share: the workspace, and those around mounts."""
    places = {WORKSPACE}
    for path in covered:
        places |= {f"{WORKSPACE}/{folder}" for folder in PurePosixPath(path).parents}
    shared = sorted(posixpath.normpath(place) for place in places)
    return dict.fromkeys(shared, num_bytes // len(set(shared)))


def _mountable(path: Path) -> Path:
    if ":" in str(path):
        raise WorkspaceLostError(f"{path} has a colon in it, which engines cannot mount")
    return path


def _outcome(said: Mapping[str, Any], limits: Limits) -> Outcome:
    if said["reason"] in ("failed", "starved"):
        return Outcome.LOST
    if said["kills"] > 0:
        return Outcome.OUT_OF_MEMORY
    if said["reason"] == "output":
        return Outcome.OUTPUT_LIMIT
    is_over = said["cpu_seconds"] >= limits.cpu_seconds
    if said["reason"] != "ended" or said["status"] == KILLED_FOR_CPU_TIME or is_over:
        return Outcome.TIMED_OUT
    return Outcome.EXITED
