"""Configuration of the length window: budgets of rollouts by stage, and when to move on."""

from dataclasses import dataclass, field
from itertools import pairwise

from cispo.config.objective import TokenWeighting
from cispo.config.require import require, require_member


@dataclass(slots=True, kw_only=True)
class WindowConfig:
    """One window, and what holds updates back in it; null keeps the run's own setting.

    Attributes:
        max_new_tokens: Budget of tokens a rollout.
        ratio_max: In the place of `objective.ratio_max`.
        max_grad_norm: In the place of `learner.optimizer.max_grad_norm`.
        token_weighting: In the place of `objective.token_weighting`.
    """

    max_new_tokens: int
    ratio_max: float | None = None
    max_grad_norm: float | None = None
    token_weighting: str | None = None

    def __post_init__(self) -> None:
        key = f"length_window.stages[{self.max_new_tokens}]"
        require(self.max_new_tokens >= 1, key, self.max_new_tokens, "must be >= 1")
        require(
            self.ratio_max is None or self.ratio_max >= 1.0,
            f"{key}.ratio_max",
            self.ratio_max,
            "it bounds the ratio pi/mu itself, so it must be >= 1, or null",
        )
        require(
            self.max_grad_norm is None or self.max_grad_norm > 0,
            f"{key}.max_grad_norm",
            self.max_grad_norm,
            "must be > 0, or null",
        )
        if self.token_weighting is not None:
            require_member(TokenWeighting, f"{key}.token_weighting", self.token_weighting)


@dataclass(slots=True, kw_only=True)
class LengthWindowConfig:
    """Stages of the length window; see `cispo.length_window`.

    Attributes:
        stages: Windows in growing order, the last as large as `rollout.sampling.max_new_tokens`;
            empty has that budget throughout.
        iterations: N: perplexity and length are averaged over the last N iterations in the window,
            and compared with the N before them.
        perplexity_tolerance: Relative change of the mean perplexity below which it has converged.
        near_fraction: Share of the window, 0..1, that the 99th percentile of length must reach.
    """

    stages: list[WindowConfig] = field(default_factory=list)
    iterations: int = 10
    perplexity_tolerance: float = 0.01
    near_fraction: float = 0.9

    def __post_init__(self) -> None:
        budgets = [stage.max_new_tokens for stage in self.stages]
        require(
            all(before < after for before, after in pairwise(budgets)),
            "length_window.stages",
            budgets,
            "each window must be larger than the one before",
        )
        require(self.iterations >= 1, "length_window.iterations", self.iterations, "must be >= 1")
        require(
            self.perplexity_tolerance > 0,
            "length_window.perplexity_tolerance",
            self.perplexity_tolerance,
            "must be > 0, or perplexity never counts as converged",
        )
        require(
            0 < self.near_fraction <= 1,
            "length_window.near_fraction",
            self.near_fraction,
            "must lie in (0, 1]",
        )

    def least(self, max_new_tokens: int) -> int:
        """The smallest budget of a run whose sampling has this one."""
        return self.stages[0].max_new_tokens if self.stages else max_new_tokens

    def check_budgets(
        self, *, max_new_tokens: int, max_thinking_tokens: int, overlong_cache_tokens: int
    ) -> None:
        """Refuse windows that do not fit the run's other budgets.

        Raises:
            ConfigError: The last is not the sampling's budget, or the first is too small.
        """
        if not self.stages:
            return
        first, last = self.stages[0].max_new_tokens, self.stages[-1].max_new_tokens
        require(
            last == max_new_tokens,
            "rollout.sampling.max_new_tokens",
            max_new_tokens,
            f"memory and context are checked for it, so it must be the last window, {last}",
        )
        require(
            max_thinking_tokens < first,
            "rollout.sampling.max_thinking_tokens",
            max_thinking_tokens,
            f"no answer could follow in the first window of {first} tokens; take fewer, or 0",
        )
        require(
            overlong_cache_tokens <= first,
            "reward.overlong_cache_tokens",
            overlong_cache_tokens,
            f"must not exceed the first window of {first} tokens",
        )
