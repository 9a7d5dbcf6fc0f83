"""The diagnostics of an update against hand arithmetic on five tokens."""

import math

import pytest
import torch

from cispo.batch.packing import Batch
from cispo.learner.statistics import Statistics, measure, metrics
from cispo.objectives import cispo_loss
from cispo.policy.base import RouterLoad, TokenScores

RATIOS = torch.tensor([0.0, 0.5, 1.0, 3.0, 10.0])
ADVANTAGES = torch.tensor([0.0, 1.0, -1.0, -1.0, 2.0])


def batch_of(keep: slice, *, weight: float = 0.25) -> tuple[Batch, TokenScores]:
    """One sequence: a prompt token, then the chosen ones of four actions."""
    index = torch.cat([torch.tensor([0]), torch.arange(1, 5)[keep]])
    mask = index > 0
    behaviour = torch.where(mask, -2.0, 0.0)
    batch = Batch(
        token_ids=index,
        cu_seqlens=torch.tensor([0, len(index)], dtype=torch.int32),
        action_mask=mask,
        behaviour_logprobs=behaviour,
        advantages=ADVANTAGES[index],
        token_weights=torch.where(mask, weight, 0.0),
        versions=torch.tensor([4]),
        task_ids=("t",),
    )
    logprobs = torch.where(mask, behaviour + RATIOS[index].log(), 0.0)
    entropy = torch.where(mask, index.float(), 0.0)
    # every token to experts 0 and 1 of one layer, to experts 1 and 2 of the other
    counts = len(index) * torch.tensor([[1, 1, 0, 0], [0, 1, 1, 0]])
    load = RouterLoad(counts, torch.tensor([0.5, float(len(index))]))
    return batch, TokenScores(logprobs, entropy, torch.zeros(()), load)


def measured(keep: slice, *, fresh_version: int | None = None, weight: float = 0.25) -> Statistics:
    batch, scores = batch_of(keep, weight=weight)
    loss, weights = cispo_loss(
        scores.logprobs,
        batch.behaviour_logprobs,
        batch.advantages,
        batch.token_weights,
        ratio_max=5.0,
    )
    return measure(
        batch,
        scores,
        weights,
        loss=loss,
        aux_loss=torch.tensor(0.125),
        ratio_max=5.0,
        ratio_min=0.0,
        fresh_version=fresh_version,
    )


def test_numbers_are_those_of_hand_arithmetic() -> None:
    found = metrics(measured(slice(None)))
    # ratios 1/2, 1, 3, 10 become weights 1/2, 1, 3, 5
    assert found["learn/tokens"] == 5
    assert found["learn/action_tokens"] == 4
    assert found["learn/aux_loss"] == 0.125
    assert found["weight/mean"] == pytest.approx(9.5 / 4)
    assert found["weight/effective_sample_fraction"] == pytest.approx(9.5**2 / (4 * 35.25))
    assert found["weight/capped_fraction"] == 0.25
    assert found["weight/capped_positive_fraction"] == 0.5
    assert found["weight/capped_negative_fraction"] == 0.0
    assert found["weight/floored_fraction"] == 0.0
    assert found["ratio/inert_fraction"] == 0.25
    assert found["ratio/min"] == pytest.approx(0.5)
    assert found["ratio/max"] == pytest.approx(10.0)
    assert found["entropy/mean_nats"] == pytest.approx((1 + 2 + 3 + 4) / 4)
    logs = [math.log(r) for r in (0.5, 1, 3, 10)]
    assert found["kl/k1_nats"] == pytest.approx(-sum(logs) / 4)
    assert found["kl/k3_nats"] == pytest.approx((14.5 - 4 - sum(logs)) / 4, rel=1e-5)


def test_quantiles_are_right_to_a_percent() -> None:
    found = metrics(measured(slice(None)))
    assert found["ratio/p01"] == pytest.approx(0.5, rel=0.01)
    assert found["ratio/p50"] == pytest.approx(1.0, rel=0.01)
    assert found["ratio/p90"] == pytest.approx(10.0, rel=0.01)


def test_a_ratio_of_one_has_a_quantile_of_exactly_one() -> None:
    assert metrics(measured(slice(1, 2)))["ratio/p50"] == 1.0


def test_parts_add_up_to_the_whole() -> None:
    total = Statistics.empty(torch.device("cpu"), routers=(2, 4))
    total.add(measured(slice(0, 1)))
    total.add(measured(slice(1, 4)))
    whole = measured(slice(None))
    assert torch.equal(total.histogram, whole.histogram)
    assert torch.equal(total.maxima, whole.maxima)
    found, expected = metrics(total), metrics(whole)
    # the first token is a prompt that both parts have, and entropy is the part's own length
    differ = {"learn/tokens", "learn/aux_loss", "moe/router_entropy_nats"}
    for name in expected.keys() - differ - {"moe/router_entropy_nats/1"}:
        assert found[name] == pytest.approx(expected[name], rel=1e-6), name
    # parts of two and four tokens
    assert found["moe/router_entropy_nats/1"] == pytest.approx((2 * 2 + 4 * 4) / 6)


def test_the_load_of_experts_is_that_of_the_whole_update() -> None:
    found = metrics(measured(slice(None)))
    # half of a layer's assignments go to its busiest expert, a quarter would be even
    assert found["moe/load_max_ratio"] == found["moe/load_max_ratio/0"] == 2.0
    assert found["moe/empty_experts_fraction"] == 0.5
    assert found["moe/router_entropy_nats"] == pytest.approx((0.5 + 5) / 2)
    skewed = Statistics.empty(torch.device("cpu"), routers=(2, 4))
    skewed.sums.fill_(1.0)
    skewed.expert_counts.copy_(torch.tensor([[6.0, 6.0, 6.0, 6.0], [24.0, 0.0, 0.0, 0.0]]))
    found = metrics(skewed)
    assert found["moe/load_max_ratio/0"] == 1.0
    assert found["moe/load_max_ratio"] == found["moe/load_max_ratio/1"] == 4.0


def test_a_model_without_routers_reports_no_load() -> None:
    batch, scores = batch_of(slice(None))
    found = metrics(
        measure(
            batch,
            scores._replace(router_load=None),
            batch.token_weights,
            loss=torch.zeros(()),
            aux_loss=torch.zeros(()),
            ratio_max=5.0,
            ratio_min=0.0,
            fresh_version=None,
        )
    )
    assert not [name for name in found if name.startswith("moe/")]


def test_padding_of_a_rank_is_not_counted() -> None:
    total = Statistics.empty(torch.device("cpu"), routers=(2, 4))
    total.add(measured(slice(None)))
    expected = metrics(total)
    total.add(measured(slice(None), weight=0.0))
    assert metrics(total) == expected


def test_the_mismatch_needs_the_version_that_sampled() -> None:
    found = metrics(measured(slice(None), fresh_version=4))
    assert found["mismatch/tokens"] == 4
    assert found["mismatch/max_nats"] == pytest.approx(math.log(10))
    # p = exp(-2) (1/2, 1, 3, 10) against q = exp(-2), which is constant
    assert found["mismatch/probability_correlation"] == 1.0
    for version in (None, 3):
        assert "mismatch/max_nats" not in metrics(measured(slice(None), fresh_version=version))
