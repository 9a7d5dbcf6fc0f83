"""What defines an update besides its samples, and how its samples are shared among ranks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from cispo.batch.packing import Batch, pack
from cispo.batch.plan import plan_passes
from cispo.batch.token_weights import token_weights
from cispo.config import ObjectiveConfig, ObjectiveKind, TokenWeighting
from cispo.counter_measures import CounterMeasures
from cispo.objectives import objective
from cispo.objectives.ratio import log_ratio
from cispo.types import Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateRule:
    """One optimizer step as a function of its samples.

    Attributes:
        kind: The loss.
        ratio_max: Upper bound of pi/mu.
        ratio_min: Lower bound of pi/mu.
        token_weighting: Which average over tokens.
        micro_batch_tokens: Tokens, prompts included, of one forward and backward pass of one rank,
            or of the ranks that share a row.
        temperature: The temperature at which the engine samples; log pi is taken at it too.
        router_aux_loss_coef: Weight of the experts' balance loss.
        correction_max: Upper bound of anchor/mu, by which advantages are multiplied where the ratio
            divides by another anchor than mu; None leaves that out.
    """

    kind: ObjectiveKind
    ratio_max: float
    ratio_min: float
    token_weighting: TokenWeighting
    micro_batch_tokens: int
    temperature: float = 1.0
    router_aux_loss_coef: float = 0.0
    correction_max: float | None = None

    def loss(self, batch: Batch, logprobs: Tensor) -> tuple[Tensor, Tensor]:
        """The objective's loss of a micro-batch and its clipped ratios."""
        advantages = batch.advantages
        if self.correction_max is not None:
            gap = log_ratio(batch.anchor, batch.behaviour_logprobs, batch.token_weights != 0)
            advantages = advantages * gap.exp().clamp(max=self.correction_max)
        bounded = objective(self.kind, ratio_max=self.ratio_max, ratio_min=self.ratio_min)
        return bounded(
            logprobs,
            batch.anchor,
            advantages,
            batch.token_weights,
            cu_seqlens=batch.cu_seqlens,
        )

    def under(self, measures: CounterMeasures) -> "UpdateRule":
        """The rule with what counter-measures put in the place of its own."""
        return replace(
            self,
            ratio_max=measures.ratio_max or self.ratio_max,
            token_weighting=measures.token_weighting or self.token_weighting,
        )


def update_rule(
    config: ObjectiveConfig,
    *,
    micro_batch_tokens: int,
    temperature: float,
    router_aux_loss_coef: float,
) -> UpdateRule:
    """Read a rule from the configuration of the objective."""
    return UpdateRule(
        kind=ObjectiveKind(config.kind),
        ratio_max=config.ratio_max,
        ratio_min=config.ratio_min,
        token_weighting=TokenWeighting(config.token_weighting),
        micro_batch_tokens=micro_batch_tokens,
        temperature=temperature,
        router_aux_loss_coef=router_aux_loss_coef,
        correction_max=config.correction_max,
    )


def micro_batches(
    samples: Sequence[Sample],
    *,
    rule: UpdateRule,
    rank: int = 0,
    num_ranks: int = 1,
    pads_rows: bool = False,
) -> tuple[list[Batch], dict[str, float]]:
    """The micro-batches of one rank, equally many on every rank, and how well tokens fill them.

    Token weights are taken over all samples, so that they sum to one over all ranks. All ranks
    make the same plan, and build the tensors of their own share only. Ranks that share rows count
    as one here.
    """
    plan = plan_passes(
        [len(sample.rollout.token_ids) for sample in samples],
        micro_batch_tokens=rule.micro_batch_tokens,
        num_ranks=num_ranks,
        pads_rows=pads_rows,
    )
    weights = token_weights(samples, weighting=rule.token_weighting)
    return pack(samples, weights, plan.passes, rank=rank), {
        "learn/micro_batches": float(len(plan.passes) * num_ranks),
        "learn/padding_fraction": plan.padding_fraction,
    }
