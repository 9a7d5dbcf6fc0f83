"""Writes timeline.jsonl: who was busy when, one line a step (stdlib only)."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from cispo.spans import Spans
from cispo.tracking.history import shorten
from cispo.types import Group, Lesson, Metrics, RolloutKind


class TimelineFile:
    """A tracker that writes what spans were collected since the step before.

    A line that cannot be written is said once, and survived: nothing depends on it.

    Args:
        path: The file; its folder exists.
        spans: What the run's parts report to.
        keep_through: On a resume, the checkpoint's iteration: later lines are removed.
    """

    def __init__(self, path: Path, spans: Spans, *, keep_through: int | None = None) -> None:
        self._path = path
        self._spans = spans
        self._has_failed = False
        if keep_through is not None:
            shorten(path, through=keep_through)

    def log(self, step: int, metrics: Metrics) -> None:
        """Append the step's line."""
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **self._spans.lap()}) + "\n")
        except OSError as error:
            if not self._has_failed:
                self._has_failed = True
                logging.getLogger(__name__).warning(
                    "%s cannot be written (%s); the run goes on, without lanes on the watch page",
                    self._path,
                    error.strerror or error,
                )

    def record(
        self,
        step: int,
        groups: Sequence[Group],
        *,
        kind: RolloutKind = RolloutKind.TRAINING,
        lessons: Sequence[Lesson] = (),
    ) -> None:
        """Rollouts have files of their own."""

    def finish(self, summary: Mapping[str, object]) -> None:
        """Nothing is open."""
