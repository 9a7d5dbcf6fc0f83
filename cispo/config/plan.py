"""Configuration of plans: a run, the machine, and what can only be assumed before a run."""

from dataclasses import dataclass, field

from cispo.config.machine import MachineConfig
from cispo.config.require import require
from cispo.config.run import RunConfig


@dataclass(slots=True, kw_only=True)
class AssumedConfig:
    """What a run shows only once it runs; take it from an earlier run's metrics where there is one.

    Attributes:
        prompt_tokens: Of a task, template included (`length/prompt_mean_tokens`).
        mean_tokens: Action tokens of a rollout on average (`length/mean_tokens`); null takes half
            of the budget.
        spread: Standard deviation of the logarithm of a rollout's length; 0 makes all equal.
        dropped_fraction: Share of groups that dynamic sampling drops (`drops/*`); 0 without it.
        grade_seconds: Wall time to grade one rollout.
        sandbox_seconds: Processor time in a sandbox of one rollout.
        iterations: Iterations that are simulated.
    """

    prompt_tokens: int = 128
    mean_tokens: float | None = None
    spread: float = 0.6
    dropped_fraction: float = 0.3
    grade_seconds: float = 0.01
    sandbox_seconds: float = 0.0
    iterations: int = 8

    def __post_init__(self) -> None:
        require(self.prompt_tokens >= 1, "assume.prompt_tokens", self.prompt_tokens, "must be >= 1")
        require(
            self.mean_tokens is None or self.mean_tokens >= 1,
            "assume.mean_tokens",
            self.mean_tokens,
            "must be >= 1, or null for half of the budget",
        )
        require(self.spread >= 0, "assume.spread", self.spread, "must be >= 0")
        require(
            0 <= self.dropped_fraction < 1,
            "assume.dropped_fraction",
            self.dropped_fraction,
            "must lie in [0, 1)",
        )
        for key in ("grade_seconds", "sandbox_seconds"):
            require(getattr(self, key) >= 0, f"assume.{key}", getattr(self, key), "must be >= 0")
        require(self.iterations >= 1, "assume.iterations", self.iterations, "must be >= 1")


@dataclass(slots=True, kw_only=True)
class PlanConfig(RunConfig):
    """A plan: `python -m launch.plan`, with all keys of a run and these.

    Attributes:
        machine: The machine.
        assume: What can only be assumed.
        output: JSON file that gets the plan; null writes none.
    """

    machine: MachineConfig
    assume: AssumedConfig = field(default_factory=AssumedConfig)
    output: str | None = None
