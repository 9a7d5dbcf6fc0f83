"""Runs programs in containers, through the command line of podman or docker.

Each program gets a container of its own: no network, a read-only image, an own user without
capabilities, limits by the engine's control group, and within it what a jail has too: our filter of
system calls, limits per process, a watch on time, and a report that no program can forge (see
`sandboxes.inside.boxed`). A container starts in 0.3 to 1 s, so this is for hosts where bubblewrap
may not run, or where the programs need an image.

The user namespace is the engine's: with rootful podman or docker a program that broke out of its
container would be user 61000 of the machine. `docs/security.md` compares the backends.
"""

import asyncio
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from cispo.errors import SandboxUnavailableError
from sandboxes.base import ExecResult, Limits, Program, lost
from sandboxes.bootstrap import encode_start, inside_command
from sandboxes.box import open_box
from sandboxes.engine import Engine, find_engine, list_command, refusal, remove_command, run_command
from sandboxes.jail_command import process_limits, program_environment
from sandboxes.probe import probed_layers
from sandboxes.seccomp import jail_filter

_INSIDE = ("processor_time", "inside.kernel", "inside.payload", "inside.usage", "inside.boxed")
PROGRAM_PATH = ("/usr/local/bin", "/usr/bin", "/bin")
_REMOVAL_SECONDS = 60.0


class ContainerSandbox:
    """A fresh container for each program."""

    def __init__(self, image: str, *, engine: str = "", runtime: str = "") -> None:
        """Look for an engine; it is proved by `probe`.

        Args:
            image: Image with `python3` (3.9 or later), already on this host.
            engine: `podman` or `docker`; empty takes the first that is installed.
            runtime: What starts containers, such as `runc` or `runsc`; empty chooses.

        Raises:
            SandboxUnavailableError: There is no engine.
        """
        self._image = image
        self._engine: Engine = find_engine(engine, runtime=runtime)
        self._filter = jail_filter()
        self._num_started = 0
        self._removals: set[asyncio.Task[bytes]] = set()

    async def run(self, program: Program, limits: Limits) -> ExecResult:
        """Run one program; see `sandboxes.base.Sandbox`."""
        self._num_started += 1
        name = self._engine.container_name(self._num_started)
        started = time.monotonic()
        with ExitStack() as owned:
            try:
                box = await open_box(self._command(name, limits), limits, owned)
            except OSError as error:
                return lost(f"{self._engine.name} could not be started: {error}")
            owned.callback(box.let_go)
            try:
                has_ended = await box.follow(self._request(program, limits))
            except asyncio.CancelledError:
                self.remove_later(name)
                raise
            if not has_ended:
                await self._call(remove_command(self._engine, [name]))
            return box.result(has_ended=has_ended, wall_seconds=time.monotonic() - started)

    async def probe(self) -> tuple[str, ...]:
        """Remove what dead workers left, then run a real program that tries to break out.

        Raises:
            SandboxUnavailableError: A layer is missing; the message names it.
        """
        await self._reap()
        with tempfile.NamedTemporaryFile(prefix="cispo-probe-") as secret:
            os.fchmod(secret.fileno(), 0o644)
            try:
                layers = await probed_layers(
                    self, launcher=self._engine.name, hidden=[secret.name, os.getcwd()]
                )
            except SandboxUnavailableError as error:
                message = refusal(str(error), engine=self._engine, image=self._image)
                raise SandboxUnavailableError(message) from error
        return (*layers, "own user", f"container by {self._engine.name}")

    async def close(self) -> None:
        """Wait for removals."""
        await asyncio.gather(*self._removals)

    def workspace_command(
        self,
        inside: Sequence[str],
        limits: Limits,
        *,
        scratch: Mapping[str, int],
        shown: Mapping[str, Path],
    ) -> tuple[str, list[str]]:
        """Return the name of a new container with a workspace, and the command that runs it.

        Args:
            inside: Command of its process 1.
            limits: Of all in it.
            scratch: See `sandboxes.engine.run_command`.
            shown: See `sandboxes.engine.run_command`.
        """
        self._num_started += 1
        name = self._engine.container_name(self._num_started)
        command = run_command(
            self._engine,
            self._image,
            inside,
            name=name,
            limits=limits,
            scratch=scratch,
            shown=shown,
        )
        return name, command

    @property
    def filter(self) -> bytes:
        """The seccomp filter of its programs."""
        return self._filter

    def remove_later(self, name: str) -> None:
        """Remove a container that may still be there, without waiting for it; see `close`."""
        task = asyncio.create_task(self._call(remove_command(self._engine, [name])))
        self._removals.add(task)
        task.add_done_callback(self._removals.discard)

    def _command(self, name: str, limits: Limits) -> list[str]:
        arguments = f"{limits.cpu_seconds!r}, {limits.wall_seconds!r}, {limits.cpus!r}"
        inside = inside_command(_INSIDE, "main", arguments)
        return run_command(self._engine, self._image, inside, name=name, limits=limits)

    def _request(self, program: Program, limits: Limits) -> bytes:
        start = encode_start(
            program.argv,
            environment=program_environment(PROGRAM_PATH),
            cwd="/tmp",
            limits=process_limits(limits, has_cgroup=True),
            tmp_bytes=limits.tmp_bytes,
            files=program.files,
        )
        parts = (self._filter, start, program.stdin)
        lengths = " ".join(str(len(part)) for part in parts)
        return b"".join([f"{lengths}\n".encode(), *parts])

    async def _reap(self) -> None:
        """Remove the containers of workers of this host that are dead."""
        listed = await self._call(list_command(self._engine))
        dead = [name for name in listed.decode().split() if self._engine.is_orphan(name)]
        if dead:
            await self._call(remove_command(self._engine, dead))

    async def _call(self, command: Sequence[str]) -> bytes:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            async with asyncio.timeout(_REMOVAL_SECONDS):
                output, _ = await process.communicate()
        except TimeoutError:
            process.kill()
            return b""
        return output
