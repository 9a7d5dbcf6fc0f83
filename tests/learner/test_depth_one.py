"""With one update per batch nothing is off-policy, and no clip can tell CISPO from PPO's losses."""

from dataclasses import replace

import pytest
import torch

from cispo.learner.local import LocalLearner
from cispo.types import Sample
from tests.learner.tables import TablePolicy, local_learner, make_rule, random_samples

BOUNDS = {"dapo": (0.8, 1.28), "grpo": (0.8, 1.2)}


def learner_of(
    kind: str, *, ratio_min: float, ratio_max: float
) -> tuple[TablePolicy, LocalLearner]:
    policy = TablePolicy()
    rule = make_rule(kind=kind, ratio_min=ratio_min, ratio_max=ratio_max)
    return policy, local_learner(policy, rule, lr=0.1)


def on_policy(learner: LocalLearner, samples: list[Sample]) -> list[Sample]:
    scored = learner.logprobs(samples)
    return [replace(s, anchor_logprobs=scored[i].tolist()) for i, s in enumerate(samples)]


@pytest.mark.parametrize("name", BOUNDS)
def test_with_one_update_a_batch_cispo_and_the_clipped_surrogate_are_one_to_the_bit(
    name: str,
) -> None:
    low, high = BOUNDS[name]
    ours, our_learner = learner_of("cispo", ratio_min=0.0, ratio_max=5.0)
    theirs, their_learner = learner_of("ppo_clip", ratio_min=low, ratio_max=high)
    for seed in range(5):
        samples = random_samples(12, seed=seed)
        our_learner.step(on_policy(our_learner, samples))
        their_learner.step(on_policy(their_learner, samples))
        assert torch.equal(ours.table, theirs.table)
    assert not torch.equal(ours.table, TablePolicy().table)


@pytest.mark.parametrize("name", BOUNDS)
def test_later_updates_of_the_same_batch_tell_them_apart(name: str) -> None:
    low, high = BOUNDS[name]
    ours, our_learner = learner_of("cispo", ratio_min=0.0, ratio_max=5.0)
    theirs, their_learner = learner_of("ppo_clip", ratio_min=low, ratio_max=high)
    samples = random_samples(12)
    batch = on_policy(our_learner, samples)
    for _ in range(8):
        our_learner.step(batch)
        their_learner.step(batch)
    assert (ours.table - theirs.table).abs().max() > 1e-2
