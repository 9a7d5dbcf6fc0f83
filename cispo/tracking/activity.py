"""What the run does at this moment, and what it waits for (stdlib only)."""

import threading
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class Phase:
    """A phase under way, or the last one of its name.

    Attributes:
        name: For example `sample`.
        total: Units in all.
        done: Units so far.
        started: Clock at its start.
        ended: Clock at its end, or None while it lasts.
        waiting: What it waits for, as last reported.
    """

    name: str
    total: int
    started: float
    done: int = 0
    ended: float | None = None
    waiting: str = ""

    def seconds(self, now: float) -> float:
        """How long it has lasted, or lasted."""
        return (now if self.ended is None else self.ended) - self.started


class Activity:
    """Follows the phases; implements `Progress`, and may be read from another thread.

    Args:
        clock: Seconds from an arbitrary zero.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._phases: dict[str, Phase] = {}
        self._last_event = clock()

    def start(self, phase: str, total: int) -> None:
        """Begin a phase of `total` units."""
        with self._lock:
            self._last_event = self._clock()
            self._phases[phase] = Phase(name=phase, total=total, started=self._last_event)

    def advance(self, phase: str, count: int = 1) -> None:
        """Count units as done; nothing happened if there are none."""
        with self._lock:
            if count:
                self._last_event = self._clock()
                self._phases[phase].done += count

    def waiting(self, phase: str, what: str) -> None:
        """Name what the phase waits for, which is no event."""
        with self._lock:
            self._phases[phase].waiting = what

    def finish(self, phase: str) -> None:
        """End a phase."""
        with self._lock:
            self._last_event = self._clock()
            self._phases[phase].ended = self._last_event

    def phases(self) -> list[Phase]:
        """All phases so far, the last of each name, in the order of their first start."""
        with self._lock:
            return list(self._phases.values())

    def quiet_seconds(self) -> float:
        """Time since anything happened."""
        with self._lock:
            return self._clock() - self._last_event

    def waits(self) -> list[str]:
        """A line for each phase under way: its count, its age, and what it waits for.

        Between two phases there is none; the line then names the one before.
        """
        now = self._clock()
        phases = self.phases()
        under_way = [
            f"{p.name} {p.done}/{p.total} for {p.seconds(now):.0f} s"
            + (f": {p.waiting}" if p.waiting else "")
            for p in phases
            if p.ended is None
        ]
        if under_way:
            return under_way
        ended = max(phases, key=lambda p: p.ended or p.started, default=None)
        what = f"what comes after {ended.name}" if ended else "the first phase"
        return [f"{what}, for {self.quiet_seconds():.0f} s"]
