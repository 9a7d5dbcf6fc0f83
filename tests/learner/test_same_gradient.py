"""The gradient is one function of the samples, whatever the packing, micro-batch or world size."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cispo.batch.packing import Batch
from cispo.config import ObjectiveKind, TokenWeighting
from cispo.learner.accumulate import accumulate
from cispo.learner.rule import UpdateRule, micro_batches
from cispo.learner.statistics import metrics
from cispo.policy.base import Policy, TokenScores
from cispo.types import Sample
from tests.learner.curves import VOCABULARY, small_model
from tests.learner.tables import make_rule, random_samples


@dataclass(frozen=True)
class Ranks:
    """All ranks of a learner one after another, whose gradients add up in `.grad`."""

    policy: Policy

    def forward(self, batch: Batch, *, temperature: float) -> TokenScores:
        scores: TokenScores = self.policy(
            batch.token_ids, batch.cu_seqlens, batch.action_mask, temperature=temperature
        )
        return scores

    def backward(self, loss: Tensor, *, is_last: bool) -> None:
        loss.backward()  # type: ignore[no-untyped-call]

    def agree(self, fault: str | None) -> str | None:
        return fault


def gradient(
    policy: Policy, samples: Sequence[Sample], rule: UpdateRule, *, num_ranks: int = 1
) -> dict[str, Tensor]:
    policy.zero_grad(set_to_none=True)
    for rank in range(num_ranks):
        batches, _ = micro_batches(samples, rule=rule, rank=rank, num_ranks=num_ranks)
        statistics, fault = accumulate(
            batches,
            Ranks(policy),
            rule=rule,
            num_tokens=sum(len(sample.rollout.token_ids) for sample in samples),
            fresh_version=None,
        )
        assert fault is None
    found = {n: p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None}
    if num_ranks == 1:
        found["loss"] = torch.tensor(metrics(statistics)["learn/loss"], dtype=torch.float64)
    return found


def largest_gap(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest difference relative to the largest number of the same tensor."""
    names = found.keys() & expected.keys()
    assert names >= {name for name in expected if name != "loss"}
    gaps = [
        (found[n] - expected[n]).abs().max() / expected[n].abs().max().clamp(min=1e-30)
        for n in names
    ]
    return max(gap.item() for gap in gaps)


TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-5}


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("kind", list(ObjectiveKind))
@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(2, 9),
    budget=st.integers(1, 60),
    num_ranks=st.integers(1, 4),
    weighting=st.sampled_from(TokenWeighting),
)
def test_the_gradient_is_that_of_all_samples_in_one_row(
    dtype: torch.dtype,
    kind: ObjectiveKind,
    seed: int,
    count: int,
    budget: int,
    num_ranks: int,
    weighting: TokenWeighting,
) -> None:
    policy = small_model(seed=seed % 7, kernels="torch").to(dtype)
    samples = random_samples(count, seed=seed, vocabulary=VOCABULARY)
    options = {"kind": kind, "ratio_max": 1.5, "token_weighting": weighting}
    whole = make_rule(micro_batch_tokens=10**6, **options)
    cut = make_rule(micro_batch_tokens=budget, **options)
    expected = gradient(policy, samples, whole)
    found = gradient(policy, samples, cut, num_ranks=num_ranks)
    assert largest_gap(found, expected) < TOLERANCES[dtype]


def test_a_token_mean_per_micro_batch_fails_the_check() -> None:
    policy = small_model(kernels="torch").double()
    samples = random_samples(6, vocabulary=VOCABULARY)
    rule = make_rule(micro_batch_tokens=10**6, token_weighting=TokenWeighting.TOKEN)
    expected = gradient(policy, samples, rule)
    halves = [gradient(policy, part, rule) for part in (samples[:2], samples[2:])]
    wrong = {name: (halves[0][name] + halves[1][name]) / 2 for name in expected}
    assert largest_gap(wrong, expected) > 1e-2
