"""Which tasks a run has solved, so that they are not drawn again (stdlib only).

ScaleRL (arXiv 2510.13786, section 3.2) calls it no-positive-resampling: a prompt whose historical
pass rate has reached 0.9 is left out for the rest of the run.
"""

from collections.abc import Mapping
from typing import TypeAlias

Place: TypeAlias = tuple[int, int]
"""Which table, and which row of it."""


class SolvedTasks:
    """Right and judged rollouts of every task that was sampled.

    Args:
        at: Pass rate over all of a task's rollouts at which it is solved, in (0, 1].
    """

    def __init__(self, at: float) -> None:
        self._at = at
        self._counts: dict[Place, tuple[int, int]] = {}

    def observe(self, place: Place, *, right: int, judged: int) -> None:
        """Add a group's rollouts."""
        right_before, judged_before = self._counts.get(place, (0, 0))
        self._counts[place] = right_before + right, judged_before + judged

    def __contains__(self, place: Place) -> bool:
        right, judged = self._counts.get(place, (0, 0))
        return judged > 0 and right / judged >= self._at

    def __len__(self) -> int:
        """How many tasks are solved."""
        return sum(place in self for place in self._counts)

    def state(self) -> dict[str, str]:
        """The counts by table, each as `row:right/judged` in one text."""
        tables: dict[str, list[str]] = {}
        for (table, row), (right, judged) in self._counts.items():
            tables.setdefault(str(table), []).append(f"{row}:{right}/{judged}")
        return {table: " ".join(counts) for table, counts in tables.items()}

    def restore(self, state: Mapping[str, str]) -> None:
        """Go on from a state; from nothing where it is empty."""
        self._counts = {}
        for table, counts in state.items():
            for entry in counts.split():
                row, _, shares = entry.partition(":")
                right, _, judged = shares.partition("/")
                self._counts[int(table), int(row)] = int(right), int(judged)
