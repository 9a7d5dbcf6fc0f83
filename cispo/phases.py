"""Wall time of the loop's phases, shown as progress while they last (stdlib only)."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cispo.ports import Progress
from cispo.types import Metrics

PHASES = ("sample", "learn", "publish", "evaluate", "checkpoint")
"""Phases of an iteration, in the order of the loop."""


class Phases:
    """Measures phases that follow one another.

    Args:
        progress: Told when a phase starts and ends.
        clock: Seconds from an arbitrary zero.
    """

    def __init__(
        self, progress: Progress, *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._progress = progress
        self._clock = clock
        self._seconds: dict[str, float] = {}
        self._mark = clock()

    @contextmanager
    def __call__(self, phase: str, *, total: int | None = None) -> Iterator[None]:
        """Time the block; `total` is None where the part shows progress of its own."""
        if total is not None:
            self._progress.start(phase, total)
        began = self._clock()
        try:
            yield
        finally:
            self._seconds[phase] = self._seconds.get(phase, 0.0) + self._clock() - began
            if total is not None:
                self._progress.finish(phase)

    def lap(self) -> Metrics:
        """Return `time/<phase>_seconds` and `time/iteration_seconds` since the last lap."""
        now = self._clock()
        times = {f"time/{phase}_seconds": seconds for phase, seconds in self._seconds.items()}
        times["time/iteration_seconds"] = now - self._mark
        self._seconds.clear()
        self._mark = now
        return times
