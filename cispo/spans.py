"""Collects who was busy when, for the lanes of the watch page (stdlib only)."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

from cispo.ports import Progress, Verifier
from cispo.types import Rollout, Task, Verdict

Lanes: TypeAlias = dict[str, list[tuple[float, float]]]
"""Begin and end of each spell of work in seconds since 1970, by lane, in order."""

LEARNER, REWARDS, CHECKPOINT = "learner", "rewards", "checkpoint write"
ENGINE, LOOP = "engine/", "loop/"
"""What the names of lanes that are engines, or phases of the loop, begin with."""


class Spans:
    """Merges the spells of a lane that overlap, or that only a moment parts.

    All is called from one thread. A spell costs two readings of the clock.

    Args:
        clock: Seconds from an arbitrary zero.
        epoch: Seconds since 1970, read once.
        moment_seconds: A shorter pause is none: it bounds what a line of the file can hold.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.perf_counter,
        epoch: Callable[[], float] = time.time,
        moment_seconds: float = 0.005,
    ) -> None:
        self._clock = clock
        self._zero = epoch() - clock()
        self._moment_seconds = moment_seconds
        self._open: dict[str, tuple[int, float]] = {}
        self._closed: Lanes = {}

    @contextmanager
    def __call__(self, lane: str) -> Iterator[None]:
        """Count the block as work of the lane; blocks of one lane may overlap."""
        self.begin(lane)
        try:
            yield
        finally:
            self.end(lane)

    def begin(self, lane: str) -> None:
        """Begin a spell of work, which `end` ends."""
        depth, began = self._open.get(lane, (0, self._now()))
        self._open[lane] = (depth + 1, began)

    def end(self, lane: str) -> None:
        """End a spell of work that has begun."""
        depth, began = self._open.pop(lane)
        if depth > 1:
            self._open[lane] = (depth - 1, began)
        else:
            self._close(lane, began, self._now())

    def lap(self) -> Lanes:
        """Return the work since the last lap; what goes on is cut in two here."""
        now = self._now()
        for lane, (depth, began) in self._open.items():
            self._close(lane, began, now)
            self._open[lane] = (depth, now)
        closed, self._closed = self._closed, {}
        return closed

    def _close(self, lane: str, began: float, ended: float) -> None:
        spells = self._closed.setdefault(lane, [])
        if spells and began - spells[-1][1] < self._moment_seconds:
            began = spells.pop()[0]
        spells.append((round(began, 4), round(ended, 4)))

    def _now(self) -> float:
        return self._zero + self._clock()


class SpannedVerifier:
    """A verifier whose work is counted as that of a lane."""

    def __init__(self, verifier: Verifier, spans: Spans) -> None:
        """Take the verifier that grades."""
        self._verifier = verifier
        self._spans = spans

    async def grade(self, task: Task, rollout: Rollout) -> Verdict:
        """Judge one rollout; see `cispo.ports.Verifier`."""
        with self._spans(REWARDS):
            return await self._verifier.grade(task, rollout)


class SpannedProgress:
    """A `Progress` whose phases are counted as work of the loop."""

    def __init__(self, progress: Progress, spans: Spans) -> None:
        """Take who shows the progress."""
        self._progress = progress
        self._spans = spans
        self._under_way: set[str] = set()
        self.advance = progress.advance
        self.waiting = progress.waiting

    def start(self, phase: str, total: int) -> None:
        """Begin a phase of `total` units; one that failed may begin again without an end."""
        self._progress.start(phase, total)
        if phase not in self._under_way:
            self._under_way.add(phase)
            self._spans.begin(f"{LOOP}{phase}")

    def finish(self, phase: str) -> None:
        """End a phase."""
        self._progress.finish(phase)
        if phase in self._under_way:
            self._under_way.remove(phase)
            self._spans.end(f"{LOOP}{phase}")
