"""How long rollouts are: a log-normal distribution that a budget cuts (stdlib only)."""

import math
from dataclasses import dataclass
from statistics import NormalDist

from cispo.errors import ConfigError

_NORMAL = NormalDist()
_HALVINGS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Action tokens of a rollout: min(X, budget) with log X normal.

    Attributes:
        mean_tokens: Of rollouts, cut ones included.
        spread: Standard deviation of log X; 0 makes all equal.
        budget_tokens: The most there can be.
    """

    mean_tokens: float
    spread: float
    budget_tokens: int

    def __post_init__(self) -> None:
        if not 1 <= self.mean_tokens <= self.budget_tokens:
            raise ConfigError(
                f"assume.mean_tokens={self.mean_tokens}: must lie between 1 and "
                f"rollout.sampling.max_new_tokens={self.budget_tokens}"
            )
        if self.spread < 0:
            raise ConfigError(f"assume.spread={self.spread}: must be >= 0")

    def location(self) -> float:
        """Mean of log X for which rollouts have their mean."""
        low = math.log(self.mean_tokens) - self.spread**2 - 1.0
        high = math.log(self.budget_tokens) + 8 * self.spread + 1.0
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            if _mean(middle, self.spread, self.budget_tokens) < self.mean_tokens:
                low = middle
            else:
                high = middle
        return (low + high) / 2

    def quantile(self, share: float) -> float:
        """Tokens that this share of rollouts does not exceed."""
        return self.at(self.location(), share)

    def at(self, location: float, share: float) -> float:
        """The same where the location is known."""
        return min(
            math.exp(location + self.spread * _NORMAL.inv_cdf(share)), float(self.budget_tokens)
        )

    def spread_out(self, count: int) -> tuple[float, ...]:
        """So many equally likely lengths, shortest first."""
        location = self.location()
        return tuple(self.at(location, (i + 0.5) / count) for i in range(count))

    def cut_fraction(self) -> float:
        """Share of rollouts that run into the budget."""
        if self.spread == 0:
            return float(self.mean_tokens >= self.budget_tokens)
        return 1 - _NORMAL.cdf((math.log(self.budget_tokens) - self.location()) / self.spread)


def _mean(location: float, spread: float, budget: int) -> float:
    """E[min(X, budget)] of a log-normal X."""
    if spread == 0:
        return min(math.exp(location), budget)
    z = (math.log(budget) - location) / spread
    below = math.exp(location + spread**2 / 2) * _NORMAL.cdf(z - spread)
    return below + budget * (1 - _NORMAL.cdf(z))
