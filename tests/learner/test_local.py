import math
from pathlib import Path

import numpy as np
import pytest
import torch

from cispo.config import Decay
from cispo.errors import CheckpointError, ConfigError, DivergedError
from cispo.learner.optim import Schedule
from cispo.policy.base import TokenScores
from cispo.types import Sample
from tests.learner.tables import (
    LINEAR,
    TablePolicy,
    local_learner,
    make_rule,
    make_sample,
    random_samples,
    reference_gradient,
    with_behaviour,
)


def step_taken(policy: TablePolicy, samples: list[Sample], **rule: object) -> torch.Tensor:
    """Minus the gradient, as the step of a linear optimizer."""
    before = policy.table.detach().clone()
    local_learner(policy, make_rule(**rule), **LINEAR).step(samples)  # type: ignore[arg-type]
    return policy.table.detach() - before


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_gradient_is_that_of_equation_4_in_float64(temperature: float) -> None:
    policy, samples = TablePolicy(), random_samples(12)
    expected = reference_gradient(policy.table, samples, ratio_max=2.0, temperature=temperature)
    taken = step_taken(policy, samples, temperature=temperature)
    np.testing.assert_allclose(taken.numpy(), -expected, rtol=2e-3, atol=2e-7)
    assert np.abs(expected).max() > 1e-2


@pytest.mark.parametrize("budget", [1, 17, 40])
def test_micro_batches_leave_the_gradient_and_the_metrics_as_they_are(budget: int) -> None:
    samples = random_samples(12)
    whole, cut = TablePolicy(), TablePolicy()
    one = local_learner(whole, make_rule(coefficient=0.5))
    many = local_learner(cut, make_rule(coefficient=0.5, micro_batch_tokens=budget))
    list(one.buckets(version=1, max_bytes=100))
    list(many.buckets(version=1, max_bytes=100))
    expected, found = dict(one.step(samples)), dict(many.step(samples))
    assert expected.pop("learn/micro_batches") < found.pop("learn/micro_batches")
    assert found == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(cut.table, whole.table, rtol=0, atol=2e-6)


def test_the_balance_loss_is_a_mean_over_the_update_times_its_coefficient() -> None:
    policy, samples = TablePolicy(), random_samples(9)
    expected = reference_gradient(policy.table, samples, ratio_max=2.0)
    # the table's mean square has gradient 2 table / 36, whatever the micro-batch
    expected += 0.5 * 2 * policy.table.detach().double().numpy() / 36
    taken = step_taken(policy, samples, coefficient=0.5, micro_batch_tokens=20)
    np.testing.assert_allclose(taken.numpy(), -expected, rtol=2e-3, atol=2e-7)


def test_the_gradient_is_scaled_down_to_the_norm_and_its_true_norm_reported() -> None:
    policy, samples = TablePolicy(), random_samples(12)
    gradient = reference_gradient(policy.table, samples, ratio_max=2.0)
    before = policy.table.detach().clone()
    learner = local_learner(policy, **{**LINEAR, "max_grad_norm": 0.01})
    metrics = learner.step(samples)
    norm = np.linalg.norm(gradient)
    assert metrics["learn/grad_norm"] == pytest.approx(norm, rel=1e-5)
    taken = (policy.table.detach() - before).numpy()
    np.testing.assert_allclose(taken, -gradient * 0.01 / norm, rtol=1e-2, atol=2e-7)


def test_adamw_starts_with_steps_of_the_learning_rate_however_small_the_gradient() -> None:
    policy = TablePolicy()
    before = policy.table.detach().clone()
    # advantages of 1e-10 make gradients of 1e-12, which only the paper's eps of 1e-15 lets through
    samples = [
        make_sample(
            s.rollout.token_ids,
            s.rollout.action_mask,
            s.rollout.behaviour_logprobs,
            advantage=1e-10 * s.advantage,
            group=s.group_index,
        )
        for s in random_samples(12)
    ]
    local_learner(policy, lr=1e-2).step(samples)
    moved = (policy.table.detach() - before).abs()
    assert moved[moved > 0].median().item() == pytest.approx(1e-2, rel=0.02)


def test_warm_up_is_linear_and_then_constant() -> None:
    rates = [Schedule(lr=4.0, warmup_steps=4).at(step) for step in range(6)]
    assert rates == [1.0, 2.0, 3.0, 4.0, 4.0, 4.0]
    assert Schedule(lr=4.0).at(0) == 4.0


def test_the_learning_rate_falls_in_a_line_or_half_a_wave_to_what_is_left() -> None:
    line = Schedule(
        lr=4.0, warmup_steps=2, decay=Decay.LINEAR, decay_steps=4, final_lr_fraction=0.25
    )
    assert [line.at(step) for step in range(8)] == [2.0, 4.0, 4.0, 3.25, 2.5, 1.75, 1.0, 1.0]
    wave = Schedule(lr=4.0, decay=Decay.COSINE, decay_steps=4)
    shares = [1.0, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2, 0.0, 0.0]
    assert [wave.at(step) for step in range(6)] == pytest.approx([4 * share for share in shares])


def test_a_learner_follows_its_schedule_also_after_a_restore(tmp_path: Path) -> None:
    options = {"lr": 1.0, "decay": "linear", "decay_steps": 4}
    learner = local_learner(TablePolicy(), **options)
    rates = [learner.step(random_samples(3))["learn/lr"] for _ in range(2)]
    learner.save(tmp_path)
    other = local_learner(TablePolicy(), **options)
    other.restore(tmp_path)
    rates += [other.step(random_samples(3))["learn/lr"] for _ in range(3)]
    assert rates == [1.0, 0.75, 0.5, 0.25, 0.0]


def test_a_clipped_update_is_counted_as_one() -> None:
    samples = random_samples(12)
    for max_grad_norm, is_clipped in ((1e-3, 1.0), (1e3, 0.0)):
        metrics = local_learner(TablePolicy(), max_grad_norm=max_grad_norm).step(samples)
        assert metrics["learn/clipped_fraction"] == is_clipped
        assert metrics["learn/grad_norm/max"] == metrics["learn/grad_norm"]
    learner = local_learner(TablePolicy(), lr=0.1, warmup_steps=2)
    samples = random_samples(3)
    assert [learner.step(samples)["learn/lr"] for _ in range(3)] == [0.05, 0.1, 0.1]


@pytest.mark.parametrize("value", [math.nan, -math.inf, math.inf])
def test_a_non_finite_number_names_its_task_and_leaves_the_weights_alone(value: float) -> None:
    policy, samples = TablePolicy(), random_samples(9)
    learner = local_learner(policy, make_rule(micro_batch_tokens=20))
    learner.step(samples)
    before = policy.table.detach().clone()
    broken = [*samples[:4], with_behaviour(samples[4], value), *samples[5:]]
    prompt = samples[4].rollout.action_mask.index(True)
    with pytest.raises(DivergedError, match=rf"task-1, token {prompt}: .*log mu {value}"):
        learner.step(broken)
    assert torch.equal(policy.table, before)
    assert policy.table.grad is None
    untroubled = TablePolicy()
    other = local_learner(untroubled, make_rule(micro_batch_tokens=20))
    other.step(samples)
    assert learner.step(samples) == other.step(samples)
    assert torch.equal(policy.table, untroubled.table), "the refused step left a trace"


def test_a_gradient_that_overflows_is_refused_though_the_loss_is_finite() -> None:
    class Overflowing(TablePolicy):
        def forward(self, *args: torch.Tensor, **options: float) -> TokenScores:  # type: ignore[override]
            scores = super().forward(*args, **options)  # type: ignore[arg-type]
            # zero with an infinite slope
            kink = (self.table.sum() * 0.0).abs().sqrt()
            return scores._replace(logprobs=scores.logprobs + kink)

    policy = Overflowing()
    before = policy.table.detach().clone()
    with pytest.raises(DivergedError, match="gradient's norm is"):
        local_learner(policy).step(random_samples(3))
    assert torch.equal(policy.table, before)


def test_restore_continues_to_the_last_bit(tmp_path: Path) -> None:
    policy = TablePolicy()
    learner = local_learner(policy, warmup_steps=5)
    for seed in range(3):
        learner.step(random_samples(6, seed=seed))
    learner.save(tmp_path)
    expected = [learner.step(random_samples(6, seed=seed)) for seed in range(3, 6)]
    other_policy = TablePolicy(seed=99)
    other = local_learner(other_policy, warmup_steps=5)
    other.restore(tmp_path)
    assert [other.step(random_samples(6, seed=seed)) for seed in range(3, 6)] == expected
    assert torch.equal(other_policy.table, policy.table)


def test_restore_refuses_an_empty_folder_and_another_learner(tmp_path: Path) -> None:
    learner = local_learner(TablePolicy())
    with pytest.raises(CheckpointError, match="no saved learner"):
        learner.restore(tmp_path)
    learner.save(tmp_path)
    note = tmp_path / "learner.json"
    note.write_text(note.read_text().replace('"float32"', '"bfloat16"'))
    with pytest.raises(CheckpointError, match="dtype is float32 here and bfloat16 there"):
        learner.restore(tmp_path)


def test_bfloat16_is_refused() -> None:
    with pytest.raises(ConfigError, match="float32 only"):
        local_learner(TablePolicy().bfloat16())


def test_the_mismatch_is_measured_on_the_first_update_and_on_fresh_rollouts_only() -> None:
    policy = TablePolicy()
    with torch.no_grad():
        logp = policy.table.log_softmax(-1)
    fresh = make_sample(
        [0, 1, 2],
        [0, 1, 1],
        [0.0, logp[0, 1].item() + 0.25, logp[1, 2].item() - 0.5],
        advantage=1.0,
        version=7,
    )
    stale = make_sample([0, 1], [0, 1], [0.0, -9.0], advantage=1.0, version=6)
    learner = local_learner(policy)
    list(learner.buckets(version=7, max_bytes=100))
    measured = learner.step([fresh, stale])
    assert measured["mismatch/tokens"] == 2
    assert measured["mismatch/max_nats"] == pytest.approx(0.5, rel=1e-5)
    assert measured["mismatch/mean_nats"] == pytest.approx(0.375, rel=1e-5)
    assert "mismatch/max_nats" not in learner.step([fresh]), "the policy has moved on"
    list(learner.buckets(version=8, max_bytes=100))
    assert "mismatch/max_nats" not in learner.step([fresh]), "version 7 did not sample this"


def test_exact_behaviour_log_probabilities_correlate_perfectly() -> None:
    policy = TablePolicy()
    with torch.no_grad():
        logp = policy.table.log_softmax(-1)
    sample = make_sample(
        [0, 1, 2, 3],
        [0, 1, 1, 1],
        [0.0, logp[0, 1].item(), logp[1, 2].item(), logp[2, 3].item()],
        advantage=1.0,
    )
    learner = local_learner(policy)
    list(learner.buckets(version=1, max_bytes=100))
    measured = learner.step([sample])
    assert measured["mismatch/max_nats"] < 1e-6
    assert measured["mismatch/probability_correlation"] == pytest.approx(1.0, abs=1e-9)
    assert measured["ratio/inert_fraction"] == 1.0
