"""Configuration of the loss and of what surrounds it."""

from dataclasses import dataclass
from enum import StrEnum

from cispo.config.require import require, require_member
from cispo.errors import ConfigError


class TokenWeighting(StrEnum):
    """How tokens share the loss of one optimizer step; see `cispo.batch.token_weights`."""

    PROMPT = "prompt"
    TOKEN = "token"
    SAMPLE = "sample"
    SAMPLE_TOKEN = "sample_token"


class AdvantageKind(StrEnum):
    """How rewards of a group become advantages; see `cispo.advantages`."""

    GROUP_STD = "group_std"
    GROUP_MEAN = "group_mean"
    BATCH_STD = "batch_std"
    LEAVE_ONE_OUT = "leave_one_out"


class ObjectiveKind(StrEnum):
    """The loss; see `cispo.objectives`."""

    CISPO = "cispo"
    PPO_CLIP = "ppo_clip"
    GSPO = "gspo"
    REINFORCE = "reinforce"


class AnchorKind(StrEnum):
    """What the ratio divides by; see `cispo.anchor`."""

    BEHAVIOUR = "behaviour"
    PROXIMAL = "proximal"


@dataclass(slots=True, kw_only=True)
class ObjectiveConfig:
    """The loss and what surrounds it.

    Attributes:
        kind: The loss.
        ratio_max: Upper bound of pi/mu itself (not an offset), >= 1. MiniMax published no value;
            5.0 is customary.
        ratio_min: Lower bound of pi/mu itself, 0 <= ratio_min <= 1; the paper's CISPO has none,
            which is 0.
        allow_ratio_min: Opt in to a positive `ratio_min` with CISPO, which the paper advises
            against.
        anchor: What the ratio divides by: `behaviour` is mu as the engine recorded it when it
            sampled; `proximal` is pi at the start of the iteration, by the learner's own kernels,
            for a forward pass more an iteration. The bounds then bound pi/pi_proximal.
        correction_max: Upper bound, >= 1, of pi_proximal/mu, by which `anchor: proximal` multiplies
            advantages, so that engine and staleness are corrected for once; null leaves that out,
            and takes the engine's recorded log-probabilities for pi's.
        advantage: Estimator of the advantage.
        token_weighting: Which average over tokens; `prompt` is eq. 4.
        dynamic_sampling: Replace groups whose rewards are all equal by further tasks, as in DAPO.
        leave_out_equal: Without `dynamic_sampling`: leave such groups out and replace none, as
            ScaleRL does; otherwise their advantages of zero count in the average over tokens.
        max_consecutive_drops: Groups dropped in a row before the run stops with `NoSignal`.
    """

    kind: str = ObjectiveKind.CISPO
    ratio_max: float = 5.0
    ratio_min: float = 0.0
    allow_ratio_min: bool = False
    anchor: str = AnchorKind.BEHAVIOUR
    correction_max: float | None = None
    advantage: str = AdvantageKind.GROUP_STD
    token_weighting: str = TokenWeighting.PROMPT
    dynamic_sampling: bool = True
    leave_out_equal: bool = False
    max_consecutive_drops: int = 256

    def __post_init__(self) -> None:
        require_member(ObjectiveKind, "objective.kind", self.kind)
        require_member(AnchorKind, "objective.anchor", self.anchor)
        require(
            self.correction_max is None or self.correction_max >= 1.0,
            "objective.correction_max",
            self.correction_max,
            "it bounds the ratio pi_proximal/mu itself, so it must be >= 1, or null",
        )
        require(
            self.correction_max is None or self.anchor == AnchorKind.PROXIMAL,
            "objective.correction_max",
            self.correction_max,
            "with objective.anchor=behaviour the ratio is pi/mu, and would count the gap between "
            "engine and learner twice; set it to null, or objective.anchor=proximal",
        )
        require_member(AdvantageKind, "objective.advantage", self.advantage)
        require_member(TokenWeighting, "objective.token_weighting", self.token_weighting)
        require(
            self.ratio_max >= 1.0,
            "objective.ratio_max",
            self.ratio_max,
            "it bounds the ratio pi/mu itself, so it must be >= 1 (1.28 for an offset of 0.28)",
        )
        require(
            0.0 <= self.ratio_min <= 1.0,
            "objective.ratio_min",
            self.ratio_min,
            "it bounds the ratio pi/mu itself, so it must lie in 0..1",
        )
        if self.kind == ObjectiveKind.CISPO and self.ratio_min > 0 and not self.allow_ratio_min:
            raise ConfigError(
                f"objective.ratio_min={self.ratio_min}: CISPO has no lower bound (paper, 3.1); "
                "a positive one undoes the importance weight; set 0.0, "
                "or objective.allow_ratio_min=true"
            )
        require(
            not (self.leave_out_equal and self.dynamic_sampling),
            "objective.leave_out_equal",
            self.leave_out_equal,
            "objective.dynamic_sampling=true replaces such groups already; drop one of them",
        )
        require(
            self.max_consecutive_drops >= 1,
            "objective.max_consecutive_drops",
            self.max_consecutive_drops,
            "must be >= 1",
        )
