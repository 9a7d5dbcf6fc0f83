"""The proximal anchor: the ratio's denominator by the learner itself, and what corrects for mu."""

from dataclasses import replace

import pytest
import torch

from cispo.errors import DivergedError
from cispo.types import Sample
from tests.learner.curves import VOCABULARY, small_model
from tests.learner.tables import LINEAR, TablePolicy, local_learner, make_rule, random_samples


def anchored(learner: object, samples: list[Sample]) -> list[Sample]:
    found = learner.logprobs(samples)  # type: ignore[attr-defined]
    return [replace(s, anchor_logprobs=found[i].tolist()) for i, s in enumerate(samples)]


def log_pi(policy: TablePolicy, sample: Sample) -> list[float]:
    """By hand: the row of the token before, softmax, in float64."""
    rows = policy.table.detach().double().log_softmax(-1)
    ids, mask = sample.rollout.token_ids, sample.rollout.action_mask
    return [rows[ids[t - 1], token].item() if mask[t] else 0.0 for t, token in enumerate(ids)]


@pytest.mark.parametrize("budget", [1, 20, 1000])
def test_scores_are_the_policys_whatever_the_packing(budget: int) -> None:
    policy, samples = TablePolicy(), random_samples(7)
    found = local_learner(policy, make_rule(micro_batch_tokens=budget)).logprobs(samples)
    assert sorted(found) == list(range(7))
    for index, sample in enumerate(samples):
        assert found[index].tolist() == pytest.approx(log_pi(policy, sample), abs=1e-6)


def test_the_ratio_starts_at_exactly_one_and_moves_with_the_updates() -> None:
    samples = random_samples(6, vocabulary=VOCABULARY)
    learner = local_learner(small_model(), make_rule(micro_batch_tokens=40), lr=1e-2)
    samples = anchored(learner, samples)
    first, second = learner.step(samples), learner.step(samples)
    assert first["ratio/inert_fraction"] == 1.0
    assert first["ratio/min"] == first["ratio/max"] == 1.0
    assert second["ratio/inert_fraction"] < 0.5


def test_the_engines_gap_is_still_measured_against_what_it_recorded() -> None:
    samples = random_samples(6)
    plain, proximal = (local_learner(TablePolicy(), **LINEAR) for _ in range(2))
    for learner in (plain, proximal):
        list(learner.buckets(version=1, max_bytes=100))
    expected = plain.step(samples)
    found = proximal.step(anchored(proximal, samples))
    for name in ("mismatch/mean_nats", "mismatch/max_nats", "kl/k1_nats", "kl/k3_nats"):
        assert found[name] == pytest.approx(expected[name], rel=1e-6)
    assert expected["mismatch/max_nats"] > 0.1


def test_with_the_correction_the_first_update_is_the_one_by_mu() -> None:
    """pi = pi_proximal: clip(1) * min(pi_proximal/mu, C) is CISPO's min(pi/mu, C)."""
    samples = random_samples(9)
    by_mu, corrected, uncorrected = TablePolicy(), TablePolicy(), TablePolicy()
    expected = local_learner(by_mu, make_rule(ratio_max=1.5), **LINEAR).step(samples)
    rule = make_rule(ratio_max=4.0, anchor="proximal", correction_max=1.5)
    learner = local_learner(corrected, rule, **LINEAR)
    found = learner.step(anchored(learner, samples))
    assert found["learn/loss"] == pytest.approx(expected["learn/loss"], rel=1e-5)
    torch.testing.assert_close(corrected.table, by_mu.table, rtol=0, atol=1e-6)
    assert found["correction/mean"] == pytest.approx(expected["weight/mean"], rel=1e-5)
    capped = expected["weight/capped_fraction"]
    assert found["correction/capped_fraction"] == pytest.approx(capped)
    assert capped > 0
    other = local_learner(uncorrected, make_rule(ratio_max=4.0, anchor="proximal"), **LINEAR)
    assert "correction/mean" not in other.step(anchored(other, samples))
    assert (uncorrected.table - by_mu.table).abs().max() > 1e-3


def test_the_correction_counts_the_gap_once_when_pi_has_moved() -> None:
    """(pi/prox) * (prox/mu) is pi/mu again where nothing is capped, so it is REINFORCE's step."""
    samples = random_samples(9)
    moved = [
        replace(s, anchor_logprobs=[0.5 * b for b in s.rollout.behaviour_logprobs]) for s in samples
    ]
    plain, corrected = TablePolicy(), TablePolicy()
    local_learner(plain, make_rule(ratio_max=1e6), **LINEAR).step(samples)
    rule = make_rule(ratio_max=1e6, anchor="proximal", correction_max=1e6)
    local_learner(corrected, rule, **LINEAR).step(moved)
    torch.testing.assert_close(corrected.table, plain.table, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_an_anchor_that_is_not_finite_stops_the_step(value: float) -> None:
    samples = random_samples(3)
    anchor = [0.0] * (len(samples[1].rollout.token_ids) - 1) + [value]
    policy = TablePolicy()
    before = policy.table.detach().clone()
    learner = local_learner(policy)
    with pytest.raises(DivergedError, match="task-1, token"):
        learner.step([samples[0], replace(samples[1], anchor_logprobs=anchor), samples[2]])
    assert torch.equal(policy.table, before)
