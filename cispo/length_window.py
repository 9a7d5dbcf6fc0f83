"""The budget of rollouts, widened in stages when the policy has settled in one (stdlib only).

MiniMax-M1 (arXiv 2506.13585, page 12) trains at 40K, 48K, 56K, 64K, 72K and 80K tokens, and moves
on when the perplexity of what it samples has converged and the 99th percentile of length nears the
window. It gives no numbers for either; `Criteria` has them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import fsum
from typing import Any

from cispo.counter_measures import NO_MEASURES, CounterMeasures
from cispo.diagnostics import nearest_rank, perplexity
from cispo.types import Group, Metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """One stage.

    Attributes:
        max_new_tokens: Budget of a rollout.
        measures: What holds updates back in it.
    """

    max_new_tokens: int
    measures: CounterMeasures = NO_MEASURES


@dataclass(frozen=True, slots=True, kw_only=True)
class Criteria:
    """When to move on; both must hold, over the last N iterations in the window.

    Attributes:
        iterations: N, over which perplexity and length are averaged.
        perplexity_tolerance: The mean perplexity of the last N iterations differs from that of the
            N before them by less than this share.
        near_fraction: The mean 99th percentile of length reaches this share of the window.
    """

    iterations: int
    perplexity_tolerance: float
    near_fraction: float


class LengthWindow:
    """A `Schedule` of windows. Only rollouts that had the present window's budget count.

    Args:
        windows: Budgets in growing order.
        criteria: When to move on.
        announce: Told each transition, in a line.
    """

    def __init__(
        self, windows: Sequence[Window], criteria: Criteria, *, announce: Callable[[str], None]
    ) -> None:
        self._windows = tuple(windows)
        self._criteria = criteria
        self._announce = announce
        self._stage = 0
        self._num_iterations = 0
        self._perplexities: list[float] = []
        self._lengths: list[float] = []

    @property
    def max_new_tokens(self) -> int:
        """Budget of a rollout that is asked for now."""
        return self._windows[self._stage].max_new_tokens

    @property
    def measures(self) -> CounterMeasures:
        """What holds back an update that is taken now."""
        return self._windows[self._stage].measures

    def observe(self, groups: Sequence[Group]) -> Metrics:
        """Take note of an iteration's groups, and move on where it is time."""
        rollouts = [r for g in groups for r in g.rollouts if r.token_budget == self.max_new_tokens]
        if rollouts:
            lengths = sorted(rollout.num_action_tokens for rollout in rollouts)
            keep = 2 * self._criteria.iterations
            self._perplexities = [*self._perplexities, perplexity(rollouts)][-keep:]
            self._lengths = [*self._lengths, float(nearest_rank(lengths, 99))][-keep:]
            self._num_iterations += 1
        metrics = {
            "window/stage": float(self._stage),
            "window/max_new_tokens": float(self.max_new_tokens),
            "window/transitions": float(self._moves_on()),
        }
        for name, value in (("length_fraction", self._near), ("perplexity_change", self._change)):
            if value is not None:
                metrics[f"window/{name}"] = value
        if self._moves_on():
            self._move_on()
        return metrics

    def state(self) -> dict[str, Any]:
        """See `cispo.ports.Schedule`."""
        return {
            "stage": self._stage,
            "num_iterations": self._num_iterations,
            "perplexities": self._perplexities,
            "lengths": self._lengths,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `cispo.ports.Schedule`."""
        self._stage = state.get("stage", 0)
        self._num_iterations = state.get("num_iterations", 0)
        self._perplexities = list(state.get("perplexities", ()))
        self._lengths = list(state.get("lengths", ()))

    @property
    def _near(self) -> float | None:
        """How much of the window the 99th percentile of length takes; None before any iteration."""
        last = self._lengths[-self._criteria.iterations :]
        return fsum(last) / len(last) / self.max_new_tokens if last else None

    @property
    def _change(self) -> float | None:
        """By which share the mean perplexity moved; None before 2 N iterations."""
        count = self._criteria.iterations
        if len(self._perplexities) < 2 * count:
            return None
        before, after = self._perplexities[:count], self._perplexities[count:]
        return abs(fsum(after) / fsum(before) - 1.0)

    def _moves_on(self) -> bool:
        near, change = self._near, self._change
        if near is None or change is None or self._stage == len(self._windows) - 1:
            return False
        has_converged = change < self._criteria.perplexity_tolerance
        return has_converged and near >= self._criteria.near_fraction

    def _move_on(self) -> None:
        before, next_one = self._windows[self._stage : self._stage + 2]
        measures = f"; from now on {next_one.measures}" if str(next_one.measures) else ""
        self._announce(
            f"length window {before.max_new_tokens:,} -> {next_one.max_new_tokens:,} tokens, after "
            f"{self._num_iterations} iterations in it: perplexity moved by {self._change:.2%}, the "
            f"99th percentile of length takes {self._near:.0%} of the window{measures}"
        )
        self.restore({"stage": self._stage + 1})
