"""Who was busy when, for a few iterations at a time, read from a run's timeline (stdlib only)."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cispo.phases import PHASES
from cispo.spans import LEARNER, LOOP, Lanes
from cispo.watch.following import Following


class Timeline:
    """Knows where in timeline.jsonl each step's line is, and reads those that are asked for."""

    def __init__(self, path: Path) -> None:
        """Take the file, which may come to be later or never."""
        self._places: dict[int, tuple[int, int]] = {}
        self._following = Following(path, begin=self._places.clear, line=self._note)

    def advance(self) -> bool:
        """Look for new lines; returns whether there are any."""
        return self._following.advance()

    @property
    def steps(self) -> Sequence[int]:
        """The steps that have a line, in ascending order."""
        return list(self._places)

    def lanes(self, first: int, last: int) -> Lanes:
        """The spells of work that the lines of these steps hold."""
        lanes: Lanes = {}
        if not self._places:
            return lanes
        with self._following.path.open("rb") as file:
            for step, (start, length) in self._places.items():
                if first <= step <= last:
                    file.seek(start)
                    line: dict[str, Any] = json.loads(file.read(length))
                    del line["step"]
                    for lane, spells in line.items():
                        lanes.setdefault(lane, []).extend((b, e) for b, e in spells)
        return lanes

    def _note(self, line: dict[str, Any], start: int, length: int) -> None:
        if isinstance(line.get("step"), int):
            self._places[line["step"]] = (start, length)


def estimated_lanes(
    values: Callable[[str, int], float], first: int, last: int, *, began: float = 0.0
) -> Lanes:
    """Lanes of a run that recorded none: each phase once an iteration, in the loop's order.

    Args:
        values: A metric by its name and step, 0 where there is none.
        first: First step.
        last: Last step.
        began: Where time begins.
    """
    lanes: Lanes = {}
    for step in range(first, last + 1):
        now = began
        for phase in PHASES:
            seconds = values(f"time/{phase}_seconds", step)
            if seconds > 0.0:
                lanes.setdefault(f"{LOOP}{phase}", []).append((now, now + seconds))
                if phase == "learn":
                    lanes.setdefault(LEARNER, []).append((now, now + seconds))
            now += seconds
        began += max(values("time/iteration_seconds", step), now - began)
    return lanes
