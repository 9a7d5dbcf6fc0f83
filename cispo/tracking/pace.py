"""How long the rest of the run will take (stdlib only)."""

from collections import deque

from cispo.types import Metrics

_RECENT = 10


class Pace:
    """Averages the recent iterations' times."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=_RECENT)

    def eta_seconds(self, step: int, iterations: int, metrics: Metrics) -> float | None:
        """Count the step's time in, and estimate the rest; step 0 is no iteration."""
        if step > 0 and "time/iteration_seconds" in metrics:
            self._seconds.append(metrics["time/iteration_seconds"])
        if not self._seconds:
            return None
        return (iterations - step) * sum(self._seconds) / len(self._seconds)
