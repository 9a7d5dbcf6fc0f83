"""Hands what is tracked to several trackers (stdlib only)."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from cispo.ports import Tracker
from cispo.types import Group, Lesson, Metrics, RolloutKind


class Fanout:
    """A tracker made of trackers, which are called in order.

    Args:
        trackers: Those that must not fail come first.
    """

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self._trackers = tuple(trackers)

    def log(self, step: int, metrics: Metrics) -> None:
        """Log to each."""
        for tracker in self._trackers:
            tracker.log(step, metrics)

    def record(
        self,
        step: int,
        groups: Sequence[Group],
        *,
        kind: RolloutKind = RolloutKind.TRAINING,
        lessons: Sequence[Lesson] = (),
    ) -> None:
        """Record to each."""
        for tracker in self._trackers:
            tracker.record(step, groups, kind=kind, lessons=lessons)

    def finish(self, summary: Mapping[str, object]) -> None:
        """Finish each, also when one of them raises."""
        with ExitStack() as stack:
            for tracker in reversed(self._trackers):
                stack.callback(tracker.finish, summary)
