"""Says when gradients explode, before the loss does (stdlib only)."""

from collections import deque
from statistics import median

from cispo.types import Metrics

NORM = "learn/grad_norm/max"

_MEMORY = 50
"""Iterations whose median is what is usual."""

_LEAST = 5
"""Iterations before anything is usual."""

_TIMES = 10.0
"""A user of CISPO with torch's default AdamW saw norms go from 0.2 to tens within forty updates
(MiniMax-M1, issue 31)."""


class GradientMonitor:
    """Compares the largest gradient norm of an iteration with the median of those before it."""

    def __init__(self) -> None:
        self._norms: deque[float] = deque(maxlen=_MEMORY)

    def message(self, metrics: Metrics) -> str | None:
        """Take in one iteration; the alarm's text, or None."""
        norm = metrics.get(NORM)
        if not norm:  # no update, or one without any signal, which says nothing of what is usual
            return None
        usual = median(self._norms) if len(self._norms) >= _LEAST else None
        self._norms.append(norm)
        if usual is None or norm <= _TIMES * usual:
            return None
        return (
            f"the gradient's norm is {norm:.3g}, {norm / usual:.0f} times the usual {usual:.2g}; "
            "lower learner.optimizer.lr or max_grad_norm if it stays"
        )
