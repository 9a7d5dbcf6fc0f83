"""One run whatever the ZeRO stage, the number of ranks and the packing; and none that diverges."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.learner.curves import OPTIMIZER, PACKINGS, UPDATES, VOCABULARY, small_model, train
from tests.learner.one_rank import one_rank
from tests.learner.tables import local_learner, make_rule, random_samples
from tests.waiting import PATIENCE_SECONDS

pytestmark = pytest.mark.slow

STAGES = [0, 1, 2, 3]
LOSS_TOLERANCE = 1e-6
"""Absolute, of losses about 0.1; found: 6e-8, the last bit of float32."""

WEIGHT_TOLERANCE = 1e-6
"""Absolute, after twenty AdamW steps of up to 1e-3; found: 1.2e-7."""


@pytest.fixture(scope="module")
def reference() -> dict[str, Any]:
    """The curve of the plain learner, all samples in one micro-batch."""
    return train(lambda p, r: local_learner(p, r, **OPTIMIZER), budget=1000)


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What two processes found at all stages."""
    folder = tmp_path_factory.mktemp("ranks")
    file = folder / "results.pt"
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    said = folder / "said.txt"
    with said.open("w") as output:
        ranks = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.learner.two_ranks", str(rank), str(port), str(file)],
                cwd=Path(__file__).parents[2],
                env={**os.environ, "DS_ACCELERATOR": "cpu"},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            for rank in range(2)
        ]
    try:
        codes = [rank.wait(timeout=4 * PATIENCE_SECONDS) for rank in ranks]
        assert codes == [0, 0], said.read_text()[-3000:]
        yield torch.load(file, weights_only=True)
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()


def assert_same_run(found: dict[str, Any], reference: dict[str, Any]) -> None:
    """Same losses, gradient norms and exported weights."""
    assert len(found["losses"]) == UPDATES
    torch.testing.assert_close(found["losses"], reference["losses"], rtol=0, atol=LOSS_TOLERANCE)
    torch.testing.assert_close(found["norms"], reference["norms"], rtol=1e-5, atol=0)
    assert found["weights"].keys() == reference["weights"].keys()
    for name, weight in found["weights"].items():
        wanted = reference["weights"][name]
        torch.testing.assert_close(weight, wanted, rtol=0, atol=WEIGHT_TOLERANCE)


def test_the_reference_moves_its_weights_far_beyond_the_tolerance(
    reference: dict[str, Any],
) -> None:
    start = train(lambda p, r: local_learner(p, r, **{**OPTIMIZER, "lr": 1e-12}), budget=1000)
    for name, weight in reference["weights"].items():
        assert (weight - start["weights"][name]).abs().max() > 1000 * WEIGHT_TOLERANCE


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("stage", STAGES)
def test_one_rank_takes_the_references_updates(
    reference: dict[str, Any], stage: int, packing: str
) -> None:
    with one_rank():
        from cispo.learner.deepspeed import DeepSpeedLearner

        found = train(
            lambda p, r: DeepSpeedLearner(p, r, zero_stage=stage, **OPTIMIZER),
            budget=PACKINGS[packing],
        )
    assert_same_run(found, reference)


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("stage", STAGES)
def test_two_ranks_take_the_references_updates(
    reference: dict[str, Any], two_ranks: dict[str, Any], stage: int, packing: str
) -> None:
    assert_same_run(two_ranks["curves"][stage, packing], reference)


@pytest.mark.parametrize("stage", STAGES)
def test_two_ranks_score_samples_like_the_reference(two_ranks: dict[str, Any], stage: int) -> None:
    samples = random_samples(7, vocabulary=VOCABULARY)
    reference = local_learner(small_model(), make_rule(micro_batch_tokens=1000), **OPTIMIZER)
    before, after = two_ranks["scores"][stage]
    for found in (before, after):
        scores = reference.logprobs(samples)
        wanted = torch.cat([torch.tensor(scores[i]) for i in range(len(samples))])
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
        reference.step(samples)
    assert (after - before).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("stage", "dtype"),
    [*((stage, "float32") for stage in STAGES), *((stage, "bfloat16") for stage in STAGES[1:])],
)
def test_a_number_that_one_rank_finds_not_finite_changes_nothing_on_any(
    two_ranks: dict[str, Any], stage: int, dtype: str
) -> None:
    found = two_ranks["faults"][stage, dtype]
    by_nan, by_inf, by_overflow = found["messages"]
    assert by_nan.startswith("optimizer step 1 was not taken: task task-2, token 1: log pi")
    assert "log mu nan" in by_nan
    assert "log mu inf" in by_inf
    assert by_overflow == "optimizer step 1 was not taken: the gradient's norm is not finite"
    assert found["changed"] == []  # weights, masters, moments and step counts, to the bit
    kinds = {name.partition(" ")[0] for name in found["next_changes"]}
    assert {"weight", "exp_avg", "exp_avg_sq", "step", "num_steps"} <= kinds
    assert found["next_norms"][0] == found["next_norms"][1]
    assert found["next_differences"] == []
