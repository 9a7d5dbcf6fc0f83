"""The passes of one update: forward, loss, backward for each micro-batch, and what they show."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from cispo.batch.packing import Batch
from cispo.learner.rule import UpdateRule
from cispo.learner.statistics import Statistics, measure
from cispo.policy.base import TokenScores


class Passes(Protocol):
    """How a learner runs its model."""

    def forward(self, batch: Batch, *, temperature: float) -> TokenScores:
        """Score one micro-batch."""

    def backward(self, loss: Tensor, *, is_last: bool) -> None:
        """Add the loss's gradient to what the update has so far."""

    def agree(self, fault: str | None) -> str | None:
        """Return any rank's fault on all ranks, or None when no rank has one."""


@dataclass(frozen=True, slots=True)
class _Check:
    """One micro-batch's finiteness, left on its device until the update's end."""

    batch: Batch
    logprobs: Tensor
    is_bad: Tensor
    flags: Tensor


def accumulate(
    batches: Sequence[Batch],
    passes: Passes,
    *,
    rule: UpdateRule,
    num_tokens: int,
    fresh_version: int | None,
) -> tuple[Statistics, str | None]:
    """Run all micro-batches of this rank.

    Args:
        batches: Equally many on every rank.
        passes: How the learner runs its model.
        rule: The update rule.
        num_tokens: Tokens of the whole update, prompts included, over all ranks.
        fresh_version: Version of the policy if no update has followed its publish, else None.

    Returns:
        The statistics of this rank, and what is wrong with the first non-finite number of any rank,
        or None. With a fault the gradients of all ranks are NaN and must not be used.
    """
    statistics: Statistics | None = None
    checks: list[_Check] = []
    fault: str | None = None
    for index, batch in enumerate(batches):
        is_last = index == len(batches) - 1
        scores = passes.forward(batch, temperature=rule.temperature)
        loss, weights = rule.loss(batch, scores.logprobs)
        aux_loss = scores.aux_loss * _share_of_tokens(batch, num_tokens)
        total = loss + rule.router_aux_loss_coef * aux_loss
        measured = measure(
            batch,
            scores,
            weights,
            loss=loss,
            aux_loss=aux_loss,
            ratio_max=rule.ratio_max,
            ratio_min=rule.ratio_min,
            correction_max=rule.correction_max,
            fresh_version=fresh_version,
        )
        if statistics is None:
            statistics = measured
        else:
            statistics.add(measured)
        checks.append(_check(batch, scores.logprobs, total))
        if is_last:
            fault = passes.agree(_first_fault(checks))
            if fault is not None:
                # A rank cannot leave alone: its peers would wait in the pass's collectives.
                total = total * math.nan
        passes.backward(total, is_last=is_last)
    assert statistics is not None, "an update has a micro-batch on every rank"
    return statistics, fault


def _share_of_tokens(batch: Batch, num_tokens: int) -> float:
    """The micro-batch's part of the update, which makes the balance loss a mean; 0 for padding."""
    return batch.num_tokens / num_tokens if bool(batch.token_weights.any()) else 0.0


@torch.no_grad()
def _check(batch: Batch, logprobs: Tensor, loss: Tensor) -> _Check:
    is_counted = batch.token_weights != 0
    numbers = logprobs - batch.behaviour_logprobs - batch.anchor + batch.advantages
    numbers += batch.token_weights
    is_bad = is_counted & ~numbers.isfinite()
    flags = torch.stack([is_bad.any(), ~loss.isfinite()])
    return _Check(batch, logprobs.detach(), is_bad, flags)


def _first_fault(checks: Sequence[_Check]) -> str | None:
    if not bool(torch.stack([check.flags for check in checks]).any()):
        return None
    for check in checks:
        has_bad_token, has_bad_loss = check.flags.tolist()
        if has_bad_token:
            return _describe(check)
        if has_bad_loss:
            tasks = ", ".join(sorted(set(check.batch.task_ids)))
            return f"the loss is not finite on the micro-batch with tasks {tasks}"
    return None


def _describe(check: _Check) -> str:
    batch = check.batch
    token = int(check.is_bad.to(torch.uint8).argmax().item())
    sequence = int(torch.searchsorted(batch.cu_seqlens, token, right=True).item()) - 1
    return (
        f"task {batch.task_ids[sequence]}, token {token - int(batch.cu_seqlens[sequence].item())}: "
        f"log pi {check.logprobs[token].item()}, log mu {batch.behaviour_logprobs[token].item()}, "
        f"advantage {batch.advantages[token].item()}"
    )
