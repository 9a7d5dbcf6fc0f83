"""One running jail: started blocked, put into its control group, watched, and killed whole."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from sandboxes.base import ExecResult, Limits, Outcome
from sandboxes.cgroups import Leaf
from sandboxes.jail_command import RELEASE, STARTED
from sandboxes.pipes import CappedReader
from sandboxes.processor_time import tree_cpu_seconds, was_starved

_START_SECONDS = 60.0
_DRAIN_SECONDS = 10.0
_STATUS_BYTES = 65536
_KILLED_FOR_CPU_TIME = 128 + signal.SIGXCPU
_NUM_CPUS = os.cpu_count() or 1


class Jail:
    """A jail on the running event loop.

    Must be built on the loop's own thread: `--die-with-parent` binds the jail's life to the thread
    that starts it, so that a worker that is killed leaves nothing behind.
    """

    def __init__(
        self,
        command: Callable[[int, int], Sequence[str]],
        *,
        inherited: Sequence[int],
        limits: Limits,
        leaf: Leaf | None,
    ) -> None:
        """Start it, blocked.

        Args:
            command: Makes the command line from the status and the block descriptor.
            inherited: Descriptors that the command line names.
            limits: Its limits.
            leaf: Its control group, or None.
        """
        self._limits = limits
        self._leaf = leaf
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._started = time.monotonic()
        self._init: int | None = None  # descriptor of process 1 of the jail
        self._init_pid = 0
        self._seen_cpu_seconds = 0.0
        status, stdout, stderr = self._spawn(command, inherited)
        tell = self._changed.set
        self._status = CappedReader(
            status, max_bytes=_STATUS_BYTES, on_change=tell, tells_each_chunk=True
        )
        most = limits.output_bytes + len(STARTED)
        self._stdout = CappedReader(stdout, max_bytes=most, on_change=tell)
        self._stderr = CappedReader(stderr, max_bytes=limits.output_bytes, on_change=tell)
        self._handle = os.pidfd_open(self._process.pid)
        self._loop.add_reader(self._handle, self._reap)

    def _spawn(
        self, command: Callable[[int, int], Sequence[str]], inherited: Sequence[int]
    ) -> tuple[int, int, int]:
        """Start the launcher; return our ends of its status, output and error pipes."""
        with ExitStack() as theirs, ExitStack() as ours:
            block, self._block_end = os.pipe()
            gate, self._gate_end = os.pipe()
            status, status_end = os.pipe()
            stdout, stdout_end = os.pipe()
            stderr, stderr_end = os.pipe()
            for descriptor in (block, gate, status_end, stdout_end, stderr_end):
                theirs.callback(os.close, descriptor)
            for descriptor in (self._block_end, self._gate_end, status, stdout, stderr):
                ours.callback(os.close, descriptor)
            self._process = subprocess.Popen(
                command(status_end, block),
                stdin=gate,
                stdout=stdout_end,
                stderr=stderr_end,
                pass_fds=[status_end, block, *inherited],
                env={},
                cwd="/",
                start_new_session=True,
            )
            ours.pop_all()
        return status, stdout, stderr

    async def finish(self) -> ExecResult:
        """Let it run to its end or to its first limit, and say what happened."""
        broken_limit = await self._watch()
        if broken_limit is not None:
            self._kill()
        await self._wait(lambda: self._is_reaped and self._is_drained, seconds=_DRAIN_SECONDS)
        exit_code = self._exit_code()
        outcome = self._outcome(exit_code, broken_limit)
        return ExecResult(
            outcome=outcome,
            exit_code=exit_code if outcome is Outcome.EXITED else None,
            stdout=self._stdout.data.removeprefix(STARTED),
            stderr=self._stderr.data,
            cpu_seconds=self._used_cpu_seconds(),
            wall_seconds=time.monotonic() - self._started,
        )

    def close(self) -> None:
        """Kill what is left of it and free its descriptors; needs no event loop turn."""
        self._kill()
        if not self._is_reaped:
            self._process.kill()
            self._reap()
        for reader in (self._status, self._stdout, self._stderr):
            reader.close()
        for descriptor in (self._block_end, self._gate_end, self._init):
            if descriptor is not None:
                os.close(descriptor)

    async def _watch(self) -> Outcome | None:
        """Release it and wait; return the limit it broke, `LOST` if it never started, else None."""
        await self._wait(self._is_confined, seconds=_START_SECONDS)
        await self._wait(lambda: self._is_reaped or self._is_at_gate, seconds=_START_SECONDS)
        if not self._is_at_gate:
            return Outcome.LOST
        with contextlib.suppress(BrokenPipeError):  # it died, which the exit tells
            os.write(self._gate_end, RELEASE)
        released = time.monotonic()
        while not self._is_reaped:
            if self._stdout.has_overflowed or self._stderr.has_overflowed:
                return Outcome.OUTPUT_LIMIT
            wall_left = released + self._limits.wall_seconds - time.monotonic()
            if wall_left <= 0:
                starved = was_starved(
                    self._init_pid,
                    wall_seconds=self._limits.wall_seconds,
                    cpus=self._limits.cpus,
                )
                return Outcome.LOST if starved else Outcome.TIMED_OUT
            cpu_left = self._limits.cpu_seconds - self._used_cpu_seconds()
            if cpu_left <= 0:
                return Outcome.TIMED_OUT
            # It cannot reach its CPU limit sooner than at full speed, so fast programs are never
            # polled.
            await self._sleep(min(wall_left, max(cpu_left / _NUM_CPUS, 0.02)))
        return None

    def _is_confined(self) -> bool:
        """Put process 1 into its control group once bubblewrap names it, then let it go on."""
        line, newline, _ = self._status.data.partition(b"\n")
        if self._is_reaped:
            return True
        if not newline:
            return False
        self._init_pid = int(json.loads(line)["child-pid"])
        with contextlib.suppress(OSError):  # it died, which the exit tells
            handle = os.pidfd_open(self._init_pid)
            if self._leaf is not None:
                self._leaf.add(self._init_pid)
            self._init = handle
            os.write(self._block_end, b"x")
        return True

    def _outcome(self, exit_code: int | None, broken_limit: Outcome | None) -> Outcome:
        if broken_limit is Outcome.LOST:
            return Outcome.LOST
        if self._leaf is not None and self._leaf.has_run_out_of_memory():
            return Outcome.OUT_OF_MEMORY
        if broken_limit is not None:
            return broken_limit
        if self._stdout.has_overflowed or self._stderr.has_overflowed:
            return Outcome.OUTPUT_LIMIT
        is_over = self._used_cpu_seconds() >= self._limits.cpu_seconds
        if is_over or exit_code == _KILLED_FOR_CPU_TIME:
            return Outcome.TIMED_OUT
        return Outcome.LOST if exit_code is None else Outcome.EXITED

    def _exit_code(self) -> int | None:
        """Return what bubblewrap reported, which it does only if the program had been started."""
        for line in self._status.data.splitlines():
            with contextlib.suppress(ValueError):
                document = json.loads(line)
                if "exit-code" in document:
                    return int(document["exit-code"])
        return None

    def _used_cpu_seconds(self) -> float:
        """Return what its control group counted, else the most ever seen of its processes."""
        used = self._leaf.cpu_seconds() if self._leaf is not None else None
        if used is None:
            used = tree_cpu_seconds(self._init_pid) if not self._is_reaped else 0.0
        self._seen_cpu_seconds = max(self._seen_cpu_seconds, used)
        return self._seen_cpu_seconds

    @property
    def _is_at_gate(self) -> bool:
        return self._stdout.data.startswith(STARTED)

    @property
    def _is_reaped(self) -> bool:
        return self._process.returncode is not None

    @property
    def _is_drained(self) -> bool:
        readers = (self._stdout, self._stderr, self._status)
        return all(reader.is_finished or reader.has_overflowed for reader in readers)

    def _kill(self) -> None:
        """Kill process 1, and with it the whole jail, or the launcher if it has not begun."""
        if self._init is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._init, signal.SIGKILL)
        elif not self._is_reaped:
            self._process.kill()

    def _reap(self) -> None:
        self._loop.remove_reader(self._handle)
        os.close(self._handle)
        self._process.wait()
        self._changed.set()

    async def _sleep(self, seconds: float) -> None:
        self._changed.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), seconds)

    async def _wait(self, is_done: Callable[[], bool], *, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not is_done() and (left := deadline - time.monotonic()) > 0:
            await self._sleep(left)
