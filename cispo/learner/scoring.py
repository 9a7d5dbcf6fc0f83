"""Log-probabilities of samples under the learner's weights as they stand, without a step."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from cispo.batch.packing import pack
from cispo.batch.plan import plan_passes
from cispo.learner.accumulate import Passes
from cispo.learner.rule import UpdateRule
from cispo.types import Sample


@torch.no_grad()
def score(
    samples: Sequence[Sample],
    passes: Passes,
    *,
    rule: UpdateRule,
    device: torch.device,
    rank: int = 0,
    num_ranks: int = 1,
    pads_rows: bool = False,
) -> dict[int, npt.NDArray[np.float32]]:
    """Score one rank's share of the samples; every rank takes part.

    Returns:
        log pi of each token in nats, [T] float32 and 0.0 off the mask, by position in `samples`.
    """
    plan = plan_passes(
        [len(sample.rollout.token_ids) for sample in samples],
        micro_batch_tokens=rule.micro_batch_tokens,
        num_ranks=num_ranks,
        pads_rows=pads_rows,
    )
    parts = [ranks[rank] for ranks in plan.passes]
    batches = pack(samples, [0.0] * len(samples), plan.passes, rank=rank)
    found: dict[int, npt.NDArray[np.float32]] = {}
    for part, batch in zip(parts, batches, strict=True):
        scores = passes.forward(batch.to(device), temperature=rule.temperature)
        row = scores.logprobs.float().cpu().numpy()
        if part:
            borders = batch.cu_seqlens.tolist()[1:-1]
            found |= dict(zip(part, np.split(row, borders), strict=True))
    return found
