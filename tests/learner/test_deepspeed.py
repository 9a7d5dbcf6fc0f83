"""DeepSpeed with one rank, in this process, at every ZeRO stage; several ranks in test_group."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cispo.config import TokenWeighting
from cispo.counter_measures import CounterMeasures
from cispo.errors import CheckpointError, ConfigError, DivergedError
from cispo.policy.base import Policy
from tests.learner.one_rank import one_rank
from tests.learner.tables import (
    ADAMW,
    LINEAR,
    TablePolicy,
    local_learner,
    make_rule,
    random_samples,
    reference_gradient,
    tensors,
    with_behaviour,
)
from tests.policy.models import make_model

pytestmark = pytest.mark.slow

STAGES = [
    (0, torch.float32),
    (1, torch.float32),
    (2, torch.float32),
    (3, torch.float32),
    (1, torch.bfloat16),
    (3, torch.bfloat16),
]


@pytest.fixture(scope="module", autouse=True)
def _process_group() -> Iterator[None]:
    with one_rank():
        yield


def deepspeed_learner(policy: Policy, *, stage: int, **options: Any) -> Any:
    from cispo.learner.deepspeed import DeepSpeedLearner

    rule = make_rule(micro_batch_tokens=20, coefficient=0.25)
    return DeepSpeedLearner(policy, rule, zero_stage=stage, **{**ADAMW, **options})


def exported(learner: Any, version: int = 1) -> dict[str, torch.Tensor]:
    return tensors(learner.buckets(version=version, max_bytes=1000))


@pytest.mark.parametrize(("stage", "dtype"), STAGES)
def test_gradient_and_metrics_are_those_of_the_local_learner(
    stage: int, dtype: torch.dtype
) -> None:
    samples = random_samples(12)
    policy, local_policy = TablePolicy().to(dtype), TablePolicy().to(dtype).float()
    before = local_policy.table.detach().clone()
    learner = deepspeed_learner(policy, stage=stage, **LINEAR)
    local = local_learner(
        local_policy, make_rule(micro_batch_tokens=20, coefficient=0.25), **LINEAR
    )
    exported(learner)
    list(local.buckets(version=1, max_bytes=1000))
    found, expected = learner.step(samples), local.step(samples)
    taken = exported(learner)["table"].float() - before
    tolerance = 1e-6 if dtype == torch.float32 else 2e-2
    # in bfloat16 the balance loss is rounded, and so is the sum of gradients
    assert found == pytest.approx(dict(expected), rel=tolerance, abs=tolerance)
    if dtype == torch.float32:
        torch.testing.assert_close(taken, local_policy.table.detach() - before, rtol=0, atol=1e-6)
        gradient = reference_gradient(before, samples, ratio_max=2.0)
        gradient += 0.25 * 2 * before.double().numpy() / before.numel()
        np.testing.assert_allclose(taken.numpy(), -gradient, rtol=2e-3, atol=5e-7)
    check_measures(learner, local, samples, tolerance=tolerance)


def check_measures(learner: Any, local: Any, samples: Any, *, tolerance: float) -> None:
    """A step under counter-measures is the local learner's, and the next one is free of them."""
    exported(learner)
    list(local.buckets(version=1, max_bytes=1000))
    measures = CounterMeasures(
        ratio_max=1.1, max_grad_norm=1e-3, token_weighting=TokenWeighting.SAMPLE_TOKEN
    )
    found, expected = learner.step(samples, measures), local.step(samples, measures)
    assert found == pytest.approx(dict(expected), rel=tolerance, abs=tolerance)
    assert found["learn/clipped_fraction"] == 1.0
    steered, wanted = exported(learner)["table"].float(), local.buckets(version=1, max_bytes=1000)
    torch.testing.assert_close(steered, tensors(wanted)["table"], rtol=tolerance, atol=tolerance)
    found, expected = learner.step(samples), local.step(samples)
    assert found == pytest.approx(dict(expected), rel=tolerance, abs=tolerance)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_hybrid_with_experts_takes_the_local_learners_step(stage: int, recompute: bool) -> None:
    samples = random_samples(12, vocabulary=96)
    policy, local_policy = make_model(), make_model()
    policy.model.recompute_layers = recompute
    before = {name: p.detach().clone() for name, p in local_policy.named_parameters()}
    learner = deepspeed_learner(policy, stage=stage, **LINEAR)
    local = local_learner(
        local_policy, make_rule(micro_batch_tokens=20, coefficient=0.25), **LINEAR
    )
    found, expected = learner.step(samples), local.step(samples)
    assert found["moe/load_max_ratio/3"] > 1.0
    assert found == pytest.approx(dict(expected), rel=1e-5, abs=1e-6)
    for name, weight in exported(learner).items():
        wanted = local_policy.get_parameter(name).detach() - before[name]
        torch.testing.assert_close(weight - before[name], wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("stage", "dtype"), STAGES)
def test_a_refused_step_leaves_weights_and_optimizer_untouched(
    stage: int, dtype: torch.dtype
) -> None:
    samples = random_samples(9)
    broken = [*samples[:4], with_behaviour(samples[4], float("-inf")), *samples[5:]]
    learner = deepspeed_learner(TablePolicy().to(dtype), stage=stage)
    untroubled = deepspeed_learner(TablePolicy().to(dtype), stage=stage)
    learner.step(samples)
    before = exported(learner)
    with pytest.raises(DivergedError, match="task-1, token"):
        learner.step(broken)
    assert torch.equal(exported(learner)["table"], before["table"])
    untroubled.step(samples)
    again, expected = learner.step(samples), untroubled.step(samples)
    assert again["learn/grad_norm"] == expected["learn/grad_norm"]
    assert torch.equal(exported(learner)["table"], exported(untroubled)["table"])


@pytest.mark.parametrize(("stage", "dtype"), STAGES)
def test_restore_continues_to_the_last_bit(tmp_path: Path, stage: int, dtype: torch.dtype) -> None:
    learner = deepspeed_learner(TablePolicy().to(dtype), stage=stage, warmup_steps=5)
    for seed in range(3):
        learner.step(random_samples(6, seed=seed))
    learner.save(tmp_path)
    expected = [learner.step(random_samples(6, seed=seed)) for seed in range(3, 6)]
    other = deepspeed_learner(TablePolicy(seed=9).to(dtype), stage=stage, warmup_steps=5)
    other.restore(tmp_path)
    assert [other.step(random_samples(6, seed=seed)) for seed in range(3, 6)] == expected
    assert torch.equal(exported(other)["table"], exported(learner)["table"])


def test_clipping_scales_to_the_norm_at_stage_0_and_above() -> None:
    samples = random_samples(12)
    taken = []
    for stage in (0, 1, 2, 3):
        policy = TablePolicy()
        before = policy.table.detach().clone()
        learner = deepspeed_learner(policy, stage=stage, **{**LINEAR, "max_grad_norm": 0.05})
        assert learner.step(samples)["learn/grad_norm"] > 0.1
        taken.append(exported(learner)["table"] - before)
        assert taken[-1].norm().item() == pytest.approx(0.05, rel=1e-4)
    for other in taken[1:]:
        torch.testing.assert_close(other, taken[0], rtol=0, atol=1e-6)


def test_a_checkpoint_of_another_dtype_is_refused_by_name(tmp_path: Path) -> None:
    deepspeed_learner(TablePolicy(), stage=1).save(tmp_path)
    with pytest.raises(CheckpointError, match="dtype is bfloat16 here and float32 there"):
        deepspeed_learner(TablePolicy().bfloat16(), stage=1).restore(tmp_path)


def test_bfloat16_at_stage_0_is_refused() -> None:
    with pytest.raises(ConfigError, match="zero_stage=0"):
        deepspeed_learner(TablePolicy().bfloat16(), stage=0)


@pytest.mark.parametrize("stage", [0, 2])
def test_the_first_step_is_adamws_first(stage: int) -> None:
    policy = TablePolicy()
    before = policy.table.detach().clone()
    learner = deepspeed_learner(policy, stage=stage, lr=1e-2)
    learner.step(random_samples(12))
    moved = (exported(learner)["table"] - before).abs()
    assert moved.max().item() == pytest.approx(1e-2, rel=1e-3)


def test_a_collective_has_no_deadline_of_its_own_in_any_group() -> None:
    """Whoever waits for the ranks ends the one that hangs, not those that wait for it."""
    for group in (torch.distributed.group.WORLD, torch.distributed.new_group([0])):
        backend = group._get_backend(torch.device("cpu"))
        assert backend.options._timeout >= timedelta(days=30)
