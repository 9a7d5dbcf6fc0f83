"""Configuration of what is drawn when: phases of the mixture, and how hard tasks may be."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cispo.config.require import require


@dataclass(slots=True, kw_only=True)
class PhaseConfig:
    """A phase of the mixture. It begins when all that it waits for has come.

    Attributes:
        weights: Shares of the sources in this phase, >= 0, by label; a source that is not named
            has none.
        after_iterations: Iterations that the phase before lasts at least; 0 in the first phase.
        pass_rate_of: Source whose pass rate in training this phase waits for; null waits for none.
        pass_rate: What it must reach, in (0, 1].
        pass_rate_tasks: Over how many of the source's last tasks that is measured, dropped groups
            included.
        ramp_iterations: In how many equal steps, one an iteration, the shares move to `weights`
            from what they were; 1 is at once.
    """

    weights: dict[str, float] = field(default_factory=dict)
    after_iterations: int = 0
    pass_rate_of: str | None = None
    pass_rate: float | None = None
    pass_rate_tasks: int = 256
    ramp_iterations: int = 1


@dataclass(slots=True, kw_only=True)
class DifficultyConfig:
    """How hard tasks may be.

    Attributes:
        above: Tasks whose measured pass rate is not above this are left out; null is no bound.
            `python -m launch.prepare tasks` measures it; MiniMax-M1 has 0 for mathematics.
        below: Tasks whose measured pass rate is not below this are left out; null is no bound.
            MiniMax-M1 has 0.9.
        solved_at: Tasks with this pass rate or more over all their rollouts of this run are not
            drawn again; null draws them again. ScaleRL has 0.9.
    """

    above: float | None = None
    below: float | None = None
    solved_at: float | None = None

    def __post_init__(self) -> None:
        for key in ("above", "below", "solved_at"):
            value = getattr(self, key)
            is_share = value is None or 0 <= value <= 1
            require(is_share, f"tasks.difficulty.{key}", value, "must lie in 0..1, or be null")
        require(
            self.solved_at != 0, "tasks.difficulty.solved_at", self.solved_at, "must be above 0"
        )
        require(
            self.above is None or self.below is None or self.above < self.below,
            "tasks.difficulty.above",
            self.above,
            f"must be less than tasks.difficulty.below={self.below}",
        )


def check_curriculum(phases: Mapping[str, PhaseConfig], labels: Sequence[str]) -> None:
    """Refuse phases that cannot be told apart from, or do not fit, the sources of these labels.

    Raises:
        ConfigError: With the phase and what to do.
    """
    if not phases:
        return
    twice = sorted({label for label in labels if labels.count(label) > 1})
    require(not twice, "tasks.sources", twice, "tasks.curriculum needs labels that differ")
    before: PhaseConfig | None = None
    for name, phase in phases.items():
        key = f"tasks.curriculum.{name}"
        for label, weight in phase.weights.items():
            known = f"there is no such source; there are {', '.join(labels)}"
            require(label in labels, f"{key}.weights", label, known)
            require(weight >= 0, f"{key}.weights.{label}", weight, "must be >= 0")
        has_weight = any(weight > 0 for weight in phase.weights.values())
        require(has_weight, f"{key}.weights", phase.weights, "give a source a weight above 0")
        require(
            phase.ramp_iterations >= 1, f"{key}.ramp_iterations", phase.ramp_iterations, "is >= 1"
        )
        _check_beginning(key, phase, before)
        before = phase


def _check_beginning(key: str, phase: PhaseConfig, before: PhaseConfig | None) -> None:
    require(
        (phase.pass_rate is None) == (phase.pass_rate_of is None),
        f"{key}.pass_rate",
        phase.pass_rate,
        "goes together with pass_rate_of, the source that must reach it",
    )
    if before is None:
        waits = phase.after_iterations != 0 or phase.pass_rate is not None
        require(not waits, key, "", "the first phase begins with the run and waits for nothing")
        return
    require(
        phase.after_iterations >= 0, f"{key}.after_iterations", phase.after_iterations, "is >= 0"
    )
    require(
        phase.after_iterations > 0 or phase.pass_rate is not None,
        f"{key}.after_iterations",
        phase.after_iterations,
        "say when the phase begins, by this or by pass_rate",
    )
    if phase.pass_rate is None:
        return
    require(0 < phase.pass_rate <= 1, f"{key}.pass_rate", phase.pass_rate, "must lie in (0, 1]")
    require(phase.pass_rate_tasks >= 1, f"{key}.pass_rate_tasks", phase.pass_rate_tasks, "is >= 1")
    require(
        before.weights.get(phase.pass_rate_of or "", 0) > 0,
        f"{key}.pass_rate_of",
        phase.pass_rate_of,
        "has no share in the phase before, so that its pass rate would never be known",
    )
