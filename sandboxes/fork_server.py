"""The host's end of a fork server: sends programs into its jail and follows them."""

import asyncio
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from sandboxes.base import ExecResult, Limits, Outcome, Program, lost
from sandboxes.bell import Bell
from sandboxes.bootstrap import encode_start
from sandboxes.bwrap_process import BwrapProcess
from sandboxes.cgroups import Leaf
from sandboxes.in_memory import in_memory
from sandboxes.jail import KILLED_FOR_CPU_TIME
from sandboxes.jail_command import process_limits
from sandboxes.pipes import CappedReader
from sandboxes.server_link import ServerLink
from sandboxes.watch import Watch

OWN_PROCESSES = 4
"""Processes of ours in its control group: bubblewrap's, fork server, keeper of rooms, process 1."""

_START_SECONDS = 60.0
_END_SECONDS = 10.0
_ERROR_BYTES = 4096
_KEPT_SHARE = 0.25
"""Of a program's memory; where more is left in the group after it, the server is replaced."""


class ServerLostError(Exception):
    """The fork server did not start, or is gone; the message is what it said last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """How a program is run by a fork server, beyond what `Program` says.

    Attributes:
        environment: All its variables.
        cwd: Where it starts.
        result_bytes: Most that it may write to its private pipe, descriptor 3; 0 makes none.
    """

    environment: Mapping[str, str]
    cwd: str
    result_bytes: int = 0


class ForkServer:
    """A jail with a fork server in it, which runs one program at a time.

    Must be built on the loop's own thread, see `BwrapProcess`.
    """

    def __init__(
        self,
        command: Callable[[int, int, int], Sequence[str]],
        *,
        inherited: Sequence[int],
        leaf: Leaf | None,
    ) -> None:
        """Start it; `ready` waits until it serves.

        Args:
            command: Makes the command line from the status, the block and the control descriptor.
            inherited: Descriptors that the command line names.
            leaf: Its control group, or None.
        """
        self._leaf = leaf
        self._own_bytes = 0
        self._limits: Limits | None = None
        self._bell = Bell()
        self._is_closed = False
        self.is_sick = False
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, ExitStack() as failed:
            failed.callback(ours.close)
            errors, errors_end = os.pipe()
            failed.callback(os.close, errors)
            nothing = os.open(os.devnull, os.O_RDWR)
            try:
                self._process = BwrapProcess(
                    lambda status, block: command(status, block, theirs.fileno()),
                    stdin=nothing,
                    stdout=nothing,
                    stderr=errors_end,
                    inherited=[theirs.fileno(), *inherited],
                    leaf=leaf,
                    bell=self._bell,
                )
            finally:
                os.close(errors_end)
                os.close(nothing)
            failed.pop_all()
        self._errors = CappedReader(errors, max_bytes=_ERROR_BYTES, on_change=self._bell.ring)
        self._link = ServerLink(ours, self._bell)

    async def ready(self) -> None:
        """Wait until it serves.

        Raises:
            ServerLostError: It does not.
        """
        await self._process.confine()
        await self._await_message(_START_SECONDS)
        if self._link.take() != b"ready":
            self.is_sick = True
            raise ServerLostError(self._last_words())
        if self._leaf is not None:
            self._own_bytes = self._leaf.used_bytes()

    async def run(self, program: Program, limits: Limits, how: Run) -> tuple[ExecResult, bytes]:
        """Run one program; return what it did, and what came through its private pipe.

        Afterwards `is_sick` tells whether the server must not be used again.
        """
        started = time.monotonic()
        try:
            self._set_limits(limits)
            with ExitStack() as owned:
                streams = self._send(program, limits, how, owned)
                return await self._follow(streams, limits, started)
        except OSError as error:
            self.is_sick = True
            return lost(f"the fork server is gone: {error}"), b""
        except asyncio.CancelledError:
            self.is_sick = True
            raise

    async def ask(self, request: bytes, *, max_bytes: int) -> bytes:
        """Have trusted code of ours answer, between programs; return what it writes.

        Raises:
            ServerLostError: It failed; the message says how.
            ValueError: The answer has more than `max_bytes`.
        """
        with ExitStack() as owned:
            read, write = os.pipe()
            answer = CappedReader(read, max_bytes=max_bytes, on_change=self._bell.ring)
            owned.callback(answer.close)
            given = in_memory({"request": request}, owned)["request"]
            try:
                self._link.send(b"ask", [given, write])
            finally:
                os.close(write)
            await self._bell.wait(
                lambda: answer.has_overflowed or (answer.is_finished and self._link.has_message),
                seconds=_START_SECONDS,
            )
            if answer.has_overflowed:
                self.is_sick = True
                raise ValueError(f"the answer has more than {max_bytes} bytes")
            if (said := self._link.take()) != b"answered":
                self.is_sick = said is None
                raise ServerLostError(self._last_words())
            return answer.data

    @property
    def is_gone(self) -> bool:
        """Whether its jail has ended, which somebody else must have done."""
        return self._process.is_reaped

    def close(self) -> None:
        """Kill it and all that it runs; needs no event loop turn."""
        if self._is_closed:
            return
        self._is_closed = self.is_sick = True
        self._process.close()
        self._link.close()
        self._errors.close()
        if self._leaf is not None:
            self._leaf.remove()

    def _set_limits(self, limits: Limits) -> None:
        if self._leaf is not None and limits != self._limits:
            self._leaf.limit(limits, own_processes=OWN_PROCESSES, own_bytes=self._own_bytes)
            self._limits = limits

    def _send(
        self, program: Program, limits: Limits, how: Run, owned: ExitStack
    ) -> list[CappedReader]:
        """Hand a program over; return its output, error and, if there is one, result stream."""
        allowed = process_limits(limits, has_cgroup=self._leaf is not None)
        if "nproc" in allowed:
            allowed["nproc"] += OWN_PROCESSES
        start = encode_start(
            program.argv,
            environment=how.environment,
            cwd=how.cwd,
            limits=allowed,
            tmp_bytes=limits.tmp_bytes,
            files=program.files,
        )
        sizes = [limits.output_bytes, limits.output_bytes]
        if how.result_bytes:
            sizes.append(how.result_bytes)
        streams = []
        with ExitStack() as handed_on:
            given = in_memory({"start": start, "stdin": program.stdin}, handed_on)
            ends = []
            for size in sizes:
                read, write = os.pipe()
                handed_on.callback(os.close, write)
                ends.append(write)
                stream = CappedReader(read, max_bytes=size, on_change=self._bell.ring)
                owned.callback(stream.close)
                streams.append(stream)
            self._link.send(b"run", [*given.values(), *ends])
        return streams

    async def _follow(
        self, streams: Sequence[CappedReader], limits: Limits, started: float
    ) -> tuple[ExecResult, bytes]:
        await self._await_message(_START_SECONDS)
        if self._link.take() != b"begun":
            self.is_sick = True
            return lost(f"the fork server did not begin: {self._last_words()}"), b""
        stdout, stderr, *results = streams
        watch = Watch(
            limits,
            leaf=self._leaf,
            root_pids=self._link.pids(),
            stdout=stdout,
            stderr=stderr,
            is_over=lambda: self._link.has_message or self._process.is_reaped,
            bell=self._bell,
        )
        broken_limit = await watch.until_broken()
        if broken_limit is not None:
            self._link.kill()
        await self._bell.wait(lambda: self._has_ended and watch.is_drained, seconds=_END_SECONDS)
        said = self._link.take()
        self._link.forget()
        outcome, exit_code = _ending(said, watch, broken_limit)
        self.is_sick = said is None or self._has_survivors() or self._keeps_memory(limits)
        result = ExecResult(
            outcome=outcome,
            exit_code=exit_code if outcome is Outcome.EXITED else None,
            stdout=stdout.data,
            stderr=stderr.data
            if outcome is not Outcome.LOST
            else self._why_lost(said, stderr.data),
            cpu_seconds=watch.cpu_seconds(),
            wall_seconds=time.monotonic() - started,
        )
        return result, results[0].data if results else b""

    def _why_lost(self, said: bytes | None, error: bytes) -> bytes:
        match said:
            case None:
                return f"the fork server ended: {self._last_words()}".encode()
            case b"failed":
                return b"the program could not be started: " + error
            case _:
                return b"the machine gave the program no processor"

    @property
    def _has_ended(self) -> bool:
        return self._link.has_message or self._process.is_reaped

    def _has_survivors(self) -> bool:
        """Whether more than bubblewrap's process 1 and the server is left in the group."""
        return self._leaf is not None and self._leaf.num_processes() > OWN_PROCESSES - 1

    def _keeps_memory(self, limits: Limits) -> bool:
        """Whether the kernel has yet to free so much that the next program could run out of it.

        Shared memory of a room, for one, is freed some time after the room.
        """
        if self._leaf is None:
            return False
        return self._leaf.used_bytes() - self._own_bytes > _KEPT_SHARE * limits.memory_bytes

    async def _await_message(self, seconds: float) -> None:
        await self._bell.wait(lambda: self._has_ended, seconds=seconds)

    def _last_words(self) -> str:
        return self._errors.data.decode(errors="replace").strip() or "it said nothing"


def _ending(
    said: bytes | None, watch: Watch, broken_limit: Outcome | None
) -> tuple[Outcome, int | None]:
    if said is None or not said.startswith(b"ended "):  # a full /tmp may cost the server its life
        return Outcome.OUT_OF_MEMORY if watch.has_run_out_of_memory else Outcome.LOST, None
    exit_code = int(said.removeprefix(b"ended "))
    return watch.outcome(broken_limit, is_cpu_kill=exit_code == KILLED_FOR_CPU_TIME), exit_code
