"""Says when updates keep carrying the policy far from the one that sampled (stdlib only)."""

from cispo.types import Metrics

DIVERGENCE = "kl/k3_nats"

LIMIT_NATS = 0.03
"""Of KL(mu, pi) a token, mean over an iteration's updates."""

_IN_A_ROW = 2
"""A policy that finds a better way departs once and then stays near; see docs/objectives.md."""


class DepartureMonitor:
    """Compares the divergence of each iteration with a limit, and waits for it to last."""

    def __init__(self) -> None:
        self._in_a_row = 0

    def message(self, metrics: Metrics) -> str | None:
        """Take in one iteration; the alarm's text, or None."""
        nats = metrics.get(DIVERGENCE)
        if nats is None:
            return None
        self._in_a_row = self._in_a_row + 1 if nats > LIMIT_NATS else 0
        if self._in_a_row < _IN_A_ROW:
            return None
        return (
            f"updates carry the policy {nats:.2g} nats a token from the one that sampled, for "
            f"{self._in_a_row} iterations in a row: a collapse may follow; lower "
            "learner.optimizer.lr or updates_per_iteration"
        )
