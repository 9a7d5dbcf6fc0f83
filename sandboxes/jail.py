"""One running jail for one program: started blocked, released, watched, and killed whole."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from sandboxes.base import ExecResult, Limits, Outcome
from sandboxes.bell import Bell
from sandboxes.bwrap_process import BwrapProcess
from sandboxes.cgroups import Leaf
from sandboxes.jail_command import RELEASE, STARTED
from sandboxes.pipes import CappedReader
from sandboxes.watch import Watch

_START_SECONDS = 60.0
_DRAIN_SECONDS = 10.0
KILLED_FOR_CPU_TIME = 128 + signal.SIGXCPU
"""Exit status of a program that the kernel ended for its processor time."""


class Jail:
    """A jail on the running event loop; must be built on the loop's own thread."""

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
        self._bell = Bell()
        self._started = time.monotonic()
        stdout, stderr = self._spawn(command, inherited)
        tell = self._bell.ring
        most = limits.output_bytes + len(STARTED)
        self._stdout = CappedReader(stdout, max_bytes=most, on_change=tell)
        self._stderr = CappedReader(stderr, max_bytes=limits.output_bytes, on_change=tell)

    def _spawn(
        self, command: Callable[[int, int], Sequence[str]], inherited: Sequence[int]
    ) -> tuple[int, int]:
        """Start the launcher; return our ends of its output and error pipes."""
        with ExitStack() as theirs, ExitStack() as ours:
            gate, self._gate_end = os.pipe()
            stdout, stdout_end = os.pipe()
            stderr, stderr_end = os.pipe()
            for descriptor in (gate, stdout_end, stderr_end):
                theirs.callback(os.close, descriptor)
            for descriptor in (self._gate_end, stdout, stderr):
                ours.callback(os.close, descriptor)
            self._process = BwrapProcess(
                command,
                stdin=gate,
                stdout=stdout_end,
                stderr=stderr_end,
                inherited=inherited,
                leaf=self._leaf,
                bell=self._bell,
            )
            ours.pop_all()
        return stdout, stderr

    async def finish(self) -> ExecResult:
        """Let it run to its end or to its first limit, and say what happened."""
        process = self._process
        await process.confine()
        await self._bell.wait(lambda: process.is_reaped or self._is_at_gate, seconds=_START_SECONDS)
        watch = Watch(
            self._limits,
            leaf=self._leaf,
            root_pids=[process.init_pid],
            stdout=self._stdout,
            stderr=self._stderr,
            is_over=lambda: process.is_reaped,
            bell=self._bell,
        )
        broken_limit: Outcome | None = Outcome.LOST
        if self._is_at_gate:
            with contextlib.suppress(BrokenPipeError):  # it died, which the exit tells
                os.write(self._gate_end, RELEASE)
            broken_limit = await watch.until_broken()
        if broken_limit is not None:
            process.kill()
        await self._bell.wait(
            lambda: process.is_reaped and process.is_drained and watch.is_drained,
            seconds=_DRAIN_SECONDS,
        )
        exit_code = process.exit_code()
        outcome = watch.outcome(broken_limit, is_cpu_kill=exit_code == KILLED_FOR_CPU_TIME)
        if outcome is Outcome.EXITED and exit_code is None:
            outcome = Outcome.LOST
        return ExecResult(
            outcome=outcome,
            exit_code=exit_code if outcome is Outcome.EXITED else None,
            stdout=self._stdout.data.removeprefix(STARTED),
            stderr=self._stderr.data,
            cpu_seconds=watch.cpu_seconds(),
            wall_seconds=time.monotonic() - self._started,
        )

    def close(self) -> None:
        """Kill what is left of it and free its descriptors; needs no event loop turn."""
        self._process.close()
        for reader in (self._stdout, self._stderr):
            reader.close()
        os.close(self._gate_end)

    @property
    def _is_at_gate(self) -> bool:
        return self._stdout.data.startswith(STARTED)
