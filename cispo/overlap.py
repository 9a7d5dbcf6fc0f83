"""Measures how far sampling and learning overlap (stdlib only)."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cispo.spans import ENGINE, LEARNER, Spans
from cispo.types import Metrics

_LEARNER = ""


class WorkTimes:
    """Adds up how long each engine, the learner, and both at once have had work.

    An engine has work while a request of it is under way, the learner while it takes an optimizer
    step. All spells are read from one clock in one process, and added up at each of their ends, so
    that the sums are the exact lengths of the spells and of their intersections.

    Args:
        num_engines: Engines over which times are averaged, those included that are not there.
        spans: Told when each of them begins and ends.
        clock: Seconds from an arbitrary zero.
    """

    def __init__(
        self,
        *,
        num_engines: int = 1,
        spans: Spans | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._spans = spans or Spans()
        self._num_engines = num_engines
        self._clock = clock
        self._at_work: Counter[str] = Counter()
        self._mark = self._began = clock()
        self._engine = self._learner = self._both = 0.0

    @contextmanager
    def engine(self, name: str) -> Iterator[None]:
        """Count the block as work of this engine; blocks of one engine may overlap."""
        with self._work_of(name), self._spans(f"{ENGINE}{name}"):
            yield

    @contextmanager
    def learner(self) -> Iterator[None]:
        """Count the block as work of the learner."""
        with self._work_of(_LEARNER), self._spans(LEARNER):
            yield

    async def lap(self) -> Metrics:
        """Return the times since the last lap, and what docs/metrics.md derives from them."""
        self._add_up()
        wall = self._mark - self._began
        seconds = {
            "overlap/wall_seconds": wall,
            "overlap/engine_seconds": self._engine,
            "overlap/learner_seconds": self._learner,
            "overlap/both_seconds": self._both,
        }
        self._began = self._mark
        self._engine = self._learner = self._both = 0.0
        return {**seconds, **overlap_fractions(seconds)}

    @contextmanager
    def _work_of(self, name: str) -> Iterator[None]:
        self._add_up()
        self._at_work[name] += 1
        try:
            yield
        finally:
            self._add_up()
            self._at_work[name] -= 1
            if not self._at_work[name]:
                del self._at_work[name]

    def _add_up(self) -> None:
        now = self._clock()
        seconds, self._mark = now - self._mark, now
        is_learning = _LEARNER in self._at_work
        engines = (len(self._at_work) - is_learning) / self._num_engines
        self._engine += seconds * engines
        self._learner += seconds * is_learning
        self._both += seconds * engines * is_learning


def overlap_fractions(seconds: Metrics) -> dict[str, float]:
    """Derive the shares from the four `overlap/*_seconds`; one without data is left out."""
    wall, engine, learner, both = (
        seconds[f"overlap/{name}_seconds"] for name in ("wall", "engine", "learner", "both")
    )
    fractions: dict[str, float] = {}
    if wall > 0:
        fractions["overlap/engine_fraction"] = engine / wall
        fractions["overlap/learner_fraction"] = learner / wall
        fractions["overlap/idle_fraction"] = 1.0 - (engine + learner - both) / wall
    if min(engine, learner) > 0:
        fractions["overlap/fraction"] = both / min(engine, learner)
    return fractions
