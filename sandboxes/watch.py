"""Follows one running program to its end or to its first limit."""

import os
import time
from collections.abc import Callable, Sequence

from sandboxes.base import Limits, Outcome
from sandboxes.bell import Bell
from sandboxes.cgroups import Leaf
from sandboxes.pipes import CappedReader
from sandboxes.processor_time import tree_cpu_seconds, was_starved

_NUM_CPUS = os.cpu_count() or 1
_SHORTEST_SLEEP = 0.02


class Watch:
    """What one program uses, from now on, and whether that is too much."""

    def __init__(
        self,
        limits: Limits,
        *,
        leaf: Leaf | None,
        root_pids: Sequence[int],
        stdout: CappedReader,
        stderr: CappedReader,
        is_over: Callable[[], bool],
        bell: Bell,
    ) -> None:
        """Begin.

        Args:
            limits: Its limits.
            leaf: Control group that counts its use; what others used in it before does not count.
            root_pids: Processes that all of its processes descend from.
            stdout: Its standard output.
            stderr: Its standard error.
            is_over: Whether all its processes have ended.
            bell: Rings whenever that may have changed, and at the ends of the two streams.
        """
        self._limits = limits
        self._leaf = leaf
        self._root_pids = root_pids
        self._streams = (stdout, stderr)
        self._is_over = is_over
        self._bell = bell
        self._seen_cpu_seconds = 0.0
        self._cpu_seconds_before = (leaf.cpu_seconds() or 0.0) if leaf is not None else 0.0
        self._kills_before = leaf.num_memory_kills() if leaf is not None else 0

    async def until_broken(self) -> Outcome | None:
        """Wait for its end; return the first limit it broke, or None."""
        started = time.monotonic()
        while not self._is_over():
            if self.has_overflowed:
                return Outcome.OUTPUT_LIMIT
            wall_left = started + self._limits.wall_seconds - time.monotonic()
            if wall_left <= 0:
                return self._at_wall_limit()
            cpu_left = self._limits.cpu_seconds - self.cpu_seconds()
            if cpu_left <= 0:
                return Outcome.TIMED_OUT
            # It cannot reach its CPU limit sooner than at full speed, so fast programs are never
            # polled.
            await self._bell.sleep(min(wall_left, max(cpu_left / _NUM_CPUS, _SHORTEST_SLEEP)))
        return None

    def cpu_seconds(self) -> float:
        """Return what its control group counted, else the most ever seen of its processes."""
        used = self._leaf.cpu_seconds() if self._leaf is not None else None
        if used is not None:
            used -= self._cpu_seconds_before
        else:
            used = 0.0 if self._is_over() else tree_cpu_seconds(self._root_pids)
        self._seen_cpu_seconds = max(self._seen_cpu_seconds, used)
        return self._seen_cpu_seconds

    @property
    def has_run_out_of_memory(self) -> bool:
        """Whether the kernel killed a process for want of memory, the program's or ours."""
        return self._leaf is not None and self._leaf.num_memory_kills() > self._kills_before

    @property
    def has_overflowed(self) -> bool:
        """Whether it wrote too much."""
        return any(stream.has_overflowed for stream in self._streams)

    @property
    def is_drained(self) -> bool:
        """Whether no more of its output is kept."""
        return all(stream.is_finished or stream.has_overflowed for stream in self._streams)

    def outcome(self, broken_limit: Outcome | None, *, is_cpu_kill: bool) -> Outcome:
        """Say how it ended, where it ended by itself or by its limits.

        Args:
            broken_limit: What `until_broken` returned.
            is_cpu_kill: Whether the kernel ended it for its processor time.
        """
        if broken_limit is Outcome.LOST:
            return Outcome.LOST
        if self.has_run_out_of_memory:
            return Outcome.OUT_OF_MEMORY
        if broken_limit is not None:
            return broken_limit
        if self.has_overflowed:
            return Outcome.OUTPUT_LIMIT
        is_over = self.cpu_seconds() >= self._limits.cpu_seconds
        return Outcome.TIMED_OUT if is_over or is_cpu_kill else Outcome.EXITED

    def _at_wall_limit(self) -> Outcome:
        starved = was_starved(
            self._root_pids,
            wall_seconds=self._limits.wall_seconds,
            cpus=self._limits.cpus,
            used_seconds=self.cpu_seconds(),
        )
        return Outcome.LOST if starved else Outcome.TIMED_OUT
