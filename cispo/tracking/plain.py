"""A run without a terminal: a line an iteration, and one that names a long wait (stdlib only)."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Self

from cispo.tracking.activity import Activity
from cispo.tracking.alarms import Alarms
from cispo.tracking.headline import closing_lines, headline
from cispo.tracking.pace import Pace
from cispo.types import Group, Lesson, Metrics, RolloutKind


class PlainConsole:
    """A tracker that prints lines of text.

    Attributes:
        progress: The `Progress` that the run's parts report to.

    Args:
        out: Where lines go.
        iterations: Iterations of the whole run, for the time that is left.
        heartbeat_seconds: Silence after which a line says what is being waited for.
        clock: Seconds from an arbitrary zero.
    """

    def __init__(
        self,
        out: IO[str],
        *,
        iterations: int,
        heartbeat_seconds: float = 15.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._out = out
        self._iterations = iterations
        self._heartbeat_seconds = heartbeat_seconds
        self._clock = clock
        self.progress = Activity(clock)
        self._pace = Pace()
        self._alarms = Alarms()
        self._last_line = clock()
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def __enter__(self) -> Self:
        # A thread, so that a wait is also named while the event loop itself is stuck.
        threading.Thread(target=self._beat_until_closed, name="heartbeat", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()

    def log(self, step: int, metrics: Metrics) -> None:
        """Print the iteration's line, and any alarm that begins."""
        eta = self._pace.eta_seconds(step, self._iterations, metrics)
        self.print(headline(step, self._iterations, metrics, eta_seconds=eta))
        for alarm in self._alarms.begun(metrics):
            self.print(f"  alarm: {alarm}")

    def record(
        self,
        step: int,
        groups: Sequence[Group],
        *,
        kind: RolloutKind = RolloutKind.TRAINING,
        lessons: Sequence[Lesson] = (),
    ) -> None:
        """Rollouts are not shown."""

    def finish(self, summary: Mapping[str, object]) -> None:
        """Say what the run came to."""
        for text in closing_lines(summary):
            self.print(text)

    def print(self, text: str) -> None:
        """Print a line at once."""
        with self._lock:
            self._last_line = self._clock()
            print(text, file=self._out, flush=True)

    def beat(self) -> None:
        """Name what is being waited for if nothing has happened or been said for long."""
        silent = min(self.progress.quiet_seconds(), self._clock() - self._last_line)
        waits = self.progress.waits()
        if silent >= self._heartbeat_seconds and waits:
            self.print("  waiting: " + " | ".join(waits))

    def _beat_until_closed(self) -> None:
        while not self._closed.wait(1.0):
            self.beat()
