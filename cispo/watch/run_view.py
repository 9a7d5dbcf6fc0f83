"""A run's folder as the watch page shows it, brought up to date as the run goes on."""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cispo.spans import Lanes
from cispo.tracking.columns import Columns
from cispo.tracking.compute import ComputeCurve, compute_curve
from cispo.tracking.health import Health, examine
from cispo.watch.following import Following
from cispo.watch.index import RolloutIndex
from cispo.watch.lanes import Timeline, estimated_lanes
from cispo.watch.query import Finder

_ITERATIONS = re.compile(r"^(?:iterations|steps): (\d{1,9})$", re.MULTILINE)
_NAME = re.compile(r"^name: (.{1,200})$", re.MULTILINE)
_FILES_AT_ONCE = 8


class RunView:
    """What is known of a run.

    One thread refreshes at a time; any may read.

    Args:
        folder: The run's folder.
        now: Seconds since 1970.

    Attributes:
        folder: The same.
        name: Name of the run.
        iterations: How many it is to have; None where config.yaml does not say.
        columns: Its metrics.
        timeline: Who was busy when.
        index: Its rollouts.
        finder: Finds rollouts.
        revision: Grows with every change.
    """

    def __init__(self, folder: Path, *, now: Callable[[], float] = time.time) -> None:
        self.folder = folder
        self._now = now
        self.name = folder.resolve().name
        self.iterations: int | None = None
        self.columns = Columns()
        self.timeline = Timeline(folder / "timeline.jsonl")
        self.index = RolloutIndex(folder / "rollouts")
        self.finder = Finder(self.index)
        self.revision = 0
        self._metrics = Following(
            folder / "metrics.jsonl", begin=self._forget_metrics, line=self._add_metrics
        )
        self._fitted: tuple[int, ComputeCurve | None] = (-1, None)
        self._read_config()

    def refresh(self) -> None:
        """Read what is new, at most a few files of rollouts at a time."""
        changes = [
            self._metrics.advance(),
            self.timeline.advance(),
            self.index.refresh(at_most=_FILES_AT_ONCE),
        ]
        self.revision += any(changes)

    @property
    def is_over(self) -> bool:
        """Whether it is through, or left its summary behind and has not gone on since."""
        if self.iterations is not None and (self.columns.last_step or 0) >= self.iterations:
            return True
        ended, logged = (self._changed(f) for f in ("summary.json", "metrics.jsonl"))
        return ended is not None and (logged is None or ended >= logged)

    def health(self) -> Health:
        """Examine the run as it is now."""
        logged = self._changed("metrics.jsonl")
        return examine(
            self.columns,
            iterations=self.iterations,
            is_over=self.is_over,
            silent_seconds=0.0 if logged is None else max(0.0, self._now() - logged),
        )

    def compute_curve(self) -> ComputeCurve | None:
        """Performance by compute; fitted anew when a line has come."""
        if self._fitted[0] != self.columns.num_lines:
            self._fitted = (self.columns.num_lines, compute_curve(self.columns))
        return self._fitted[1]

    def lanes(self, first: int, last: int) -> tuple[Lanes, bool]:
        """Who was busy in some steps, and whether that was recorded or is an estimate."""
        if self.timeline.steps:
            return self.timeline.lanes(first, last), True
        return estimated_lanes(self._value, first, last), False

    def _value(self, metric: str, step: int) -> float:
        steps, values = self.columns.series(metric)
        return values[steps.index(step)] if step in steps else 0.0

    def _changed(self, name: str) -> float | None:
        try:
            return (self.folder / name).stat().st_mtime
        except FileNotFoundError:
            return None

    def _forget_metrics(self) -> None:
        self.columns = Columns()
        self._read_config()

    def _add_metrics(self, line: dict[str, Any], start: int, length: int) -> None:
        step = line.pop("step", None)
        if isinstance(step, int):
            self.columns.add(step, {n: v for n, v in line.items() if isinstance(v, int | float)})

    def _read_config(self) -> None:
        """Two lines are all that is needed of config.yaml, and no reader of YAML is."""
        try:
            text = (self.folder / "config.yaml").read_text(encoding="utf-8")
        except OSError:
            return
        if found := _ITERATIONS.search(text):
            self.iterations = int(found[1])
        if found := _NAME.search(text):
            self.name = found[1]
