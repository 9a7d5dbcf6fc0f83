"""Says when an iteration's numbers show that learning does not do what it should (stdlib only)."""

from collections.abc import Callable
from typing import TypeAlias

from cispo.length_bias import CORRELATION, LengthBiasMonitor
from cispo.tracking.gradients import NORM, GradientMonitor
from cispo.types import Metrics

_Rule: TypeAlias = tuple[str, Callable[[float], bool], str]

DEPARTURE = "kl/k3_nats"
DEPARTURE_NATS = 0.4
"""Runs that went further from mu in one iteration collapsed; see docs/objectives.md."""

_RULES: tuple[_Rule, ...] = (
    (
        DEPARTURE,
        lambda nats: nats > DEPARTURE_NATS,
        "updates carry the policy {:.2g} nats a token from the one that sampled: a collapse may "
        "follow; lower learner.optimizer.lr or updates_per_iteration",
    ),
    (
        "mismatch/max_nats",
        lambda nats: nats > 0.5,
        "engine and learner disagree by {:.2g} nats on a token at equal weights",
    ),
    (
        "weight/effective_sample_fraction",
        lambda share: share < 0.3,
        "the effective sample size is only {:.0%} of the tokens: mu is too far from pi",
    ),
    (
        "weight/capped_fraction",
        lambda share: share > 0.2,
        "{:.0%} of the weights are cut at objective.ratio_max",
    ),
    (
        "verdict/invalid_fraction",
        lambda share: share > 0.1,
        "{:.0%} of the verdicts are missing",
    ),
    (
        "stop/length_fraction",
        lambda share: share > 0.5,
        "{:.0%} of the rollouts end at max_new_tokens and are cut off",
    ),
)
_INERT = "ratio/inert_fraction"
_INERT_MESSAGE = "pi/mu is 1 for {:.1%} of the tokens although learning is off-policy: no clip acts"


class Alarms:
    """Reports an alarm when it begins, and again only after it was over.

    Attributes:
        current: The alarms of the last step, by metric.
    """

    def __init__(self) -> None:
        self.current: dict[str, str] = {}
        self._length_bias = LengthBiasMonitor()
        self._gradients = GradientMonitor()

    def begun(self, metrics: Metrics) -> list[str]:
        """The alarms of this step that the step before did not have."""
        now = _alarms(metrics)
        if message := self._length_bias.message(metrics):
            now[CORRELATION] = message
        if message := self._gradients.message(metrics):
            now[NORM] = message
        messages = [text for name, text in now.items() if name not in self.current]
        self.current = now
        return messages


def _alarms(metrics: Metrics) -> dict[str, str]:
    alarms = {
        name: text.format(metrics[name])
        for name, is_bad, text in _RULES
        if name in metrics and is_bad(metrics[name])
    }
    # With one fresh update per batch pi equals mu, and an inert ratio is as it should be.
    is_off_policy = metrics.get("learn/updates", 0) > 1 or metrics.get("staleness/mean", 0) >= 1
    if is_off_policy and metrics.get(_INERT, 0.0) > 0.99:
        alarms[_INERT] = _INERT_MESSAGE.format(metrics[_INERT])
    return alarms
