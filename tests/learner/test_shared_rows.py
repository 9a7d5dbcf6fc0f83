"""Ranks that share rows over gloo, under DeepSpeed, against one process; four ranks in all."""

from typing import Any

import numpy as np
import pytest
import torch

from cispo.errors import DivergedError
from cispo.policy.lightning.config import FULL
from cispo.policy.lightning.config import LINEAR as LINEAR_LAYER
from cispo.policy.lightning.model import LightningModel
from tests.learner.gloo_ranks import run_on_ranks
from tests.learner.tables import (
    LINEAR,
    local_learner,
    make_rule,
    random_samples,
    tensors,
    with_behaviour,
)
from tests.policy.models import actions, make_model, pack, random_ids

pytestmark = pytest.mark.slow

NUM_RANKS = 4
BUDGET = 30
CISPO = {"kind": "cispo"}
GSPO = {"kind": "gspo", "token_weighting": "sample"}
CASES = {
    "ZeRO 0, four share": {"stage": 0, "shared": 4, "recompute": False, "objective": CISPO},
    "ZeRO 1, two by two": {"stage": 1, "shared": 2, "recompute": False, "objective": GSPO},
    "ZeRO 3, four recompute": {"stage": 3, "shared": 4, "recompute": True, "objective": CISPO},
}
UPDATES = [random_samples(9, seed=seed, vocabulary=96) for seed in range(3)]
ROWS = ((3, 31, 4), (20, 20), (1, 2), (7, 1, 1, 30, 2))


def _rule(case: dict[str, Any]) -> Any:
    # Which sequences share a row, and so the balance loss, depends on how many groups of ranks.
    coefficient = 0.25 if case["shared"] == NUM_RANKS else 0.0
    return make_rule(micro_batch_tokens=BUDGET, coefficient=coefficient, **case["objective"])


def _model() -> LightningModel:
    return make_model(num_hidden_layers=3, layer_types=(LINEAR_LAYER, FULL, LINEAR_LAYER))


def _gradients(model: LightningModel, lengths: tuple[int, ...]) -> dict[str, Any]:
    """Log-probabilities of a row and the gradients of a loss of all of them, in float64."""
    ids, ends = pack([random_ids(n, seed=n) for n in lengths])
    model.zero_grad(set_to_none=True)
    scores = model(ids, ends, actions(ends))
    weights = torch.linspace(-1.0, 1.0, len(ids), dtype=torch.float64)
    ((weights * scores.logprobs).sum().square() + scores.aux_loss).backward()
    gradients = {name: p.grad.numpy().copy() for name, p in model.named_parameters()}  # type: ignore[union-attr]
    return {"logprobs": scores.logprobs.detach().numpy(), **gradients}


def _train(case: dict[str, Any]) -> dict[str, Any]:
    from cispo.learner.deepspeed import DeepSpeedLearner

    model = _model()
    model.model.recompute_layers = case["recompute"]
    learner = DeepSpeedLearner(
        model, _rule(case), zero_stage=case["stage"], sequence_parallel=case["shared"], **LINEAR
    )
    exported = tensors(learner.buckets(version=1, max_bytes=10**4))
    scored = {index: row.tolist() for index, row in learner.logprobs(UPDATES[0]).items()}
    steps = [dict(learner.step(samples)) for samples in UPDATES]
    exported = tensors(learner.buckets(version=2, max_bytes=10**4))
    samples = UPDATES[0]
    broken = [*samples[:4], with_behaviour(samples[4], float("nan")), *samples[5:]]
    with pytest.raises(DivergedError) as refused:
        learner.step(broken)
    after = tensors(learner.buckets(version=3, max_bytes=10**4))
    assert all(torch.equal(after[name], exported[name]) for name in exported)
    weights = {name: tensor.numpy() for name, tensor in exported.items()}
    return {
        "scored": scored, "steps": steps, "weights": weights, "refused": str(refused.value),
    }  # fmt: skip


def _work(rank: int) -> dict[str, Any]:
    from cispo.policy.ranks import neighbouring_ranks

    model = _model().double()
    model.share_rows(neighbouring_ranks(2))
    passes = {lengths: _gradients(model, lengths) for lengths in ROWS}
    return {"passes": passes, "trained": {name: _train(case) for name, case in CASES.items()}}


@pytest.fixture(scope="module")
def on_ranks() -> list[dict[str, Any]]:
    return run_on_ranks(_work, num_ranks=NUM_RANKS)


def test_two_ranks_have_the_scores_and_gradients_of_one(on_ranks: list[dict[str, Any]]) -> None:
    for lengths in ROWS:
        expected = _gradients(_model().double(), lengths)
        for first, second in (on_ranks[:2], on_ranks[2:]):
            here, there = first["passes"][lengths], second["passes"][lengths]
            for name, value in expected.items():
                is_whole = name == "logprobs"  # on every rank; of gradients each has a part
                found = here[name] if is_whole else here[name] + there[name]
                scale = max(1.0, np.abs(value).max())
                assert np.abs(found - value).max() <= 1e-10 * scale, (lengths, name)


@pytest.mark.parametrize("name", CASES)
def test_training_on_shared_rows_gives_the_weights_and_metrics_of_one_process(
    on_ranks: list[dict[str, Any]], name: str
) -> None:
    case = CASES[name]
    policy = _model()
    before = {key: p.detach().clone() for key, p in policy.named_parameters()}
    learner = local_learner(policy, _rule(case), **LINEAR)
    list(learner.buckets(version=1, max_bytes=10**6))
    scored = learner.logprobs(UPDATES[0])
    expected = [dict(learner.step(samples)) for samples in UPDATES]
    ranks = [rank["trained"][name] for rank in on_ranks]
    for rank in ranks:
        assert rank["steps"] == ranks[0]["steps"]
        assert rank["refused"].startswith("optimizer step 3 was not taken: task task-1, token")
    found_scores = {index: row for rank in ranks for index, row in rank["scored"].items()}
    assert found_scores.keys() == scored.keys()
    for index, row in scored.items():
        np.testing.assert_allclose(found_scores[index], row, rtol=0, atol=1e-5)
    for found, wanted in zip(ranks[0]["steps"], expected, strict=True):
        if case["shared"] < NUM_RANKS:  # two groups fill other micro-batches
            for key in ("learn/micro_batches", "learn/padding_fraction", "learn/aux_loss"):
                del found[key], wanted[key]
        assert found == pytest.approx(wanted, rel=1e-4, abs=1e-5)
    for key, old in before.items():
        taken = ranks[0]["weights"][key] - old.numpy()
        wanted = (policy.get_parameter(key).detach() - old).numpy()
        assert np.abs(wanted).max() > 0, f"{key} has not been trained"
        assert np.abs(taken - wanted).max() <= 1e-4 * np.abs(wanted).max() + 1e-6, key
