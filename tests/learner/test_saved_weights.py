"""Weights taken out of a saved learner are those that it would publish."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from cispo.errors import CheckpointError
from cispo.learner.saved_weights import saved_weights
from tests.learner.one_rank import one_rank
from tests.learner.tables import (
    ADAMW,
    TablePolicy,
    local_learner,
    make_rule,
    random_samples,
    tensors,
)


def test_a_local_learner_gives_up_its_weights(tmp_path: Path) -> None:
    learner = local_learner(TablePolicy(), make_rule(micro_batch_tokens=20))
    learner.step(random_samples(6))
    learner.save(tmp_path)
    published = tensors(learner.buckets(version=1, max_bytes=1000))
    found = saved_weights(tmp_path)
    assert found.keys() == published.keys()
    assert all(torch.equal(found[name], published[name]) for name in published)


def test_a_folder_without_a_learner_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"learner\.json is missing"):
        saved_weights(tmp_path)
    learner = local_learner(TablePolicy(), make_rule(micro_batch_tokens=20))
    learner.save(tmp_path)
    (tmp_path / "learner.pt").unlink()
    with pytest.raises(CheckpointError, match=r"learner\.pt is missing"):
        saved_weights(tmp_path)


@pytest.fixture(scope="module")
def _process_group() -> Iterator[None]:
    with one_rank():
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("_process_group")
@pytest.mark.parametrize(
    ("stage", "dtype"),
    [
        (0, torch.float32),
        (1, torch.float32),
        (2, torch.float32),
        (3, torch.float32),
        (1, torch.bfloat16),
        (3, torch.bfloat16),
    ],
)
def test_deepspeed_gives_up_its_weights_at_every_stage(
    tmp_path: Path, stage: int, dtype: torch.dtype
) -> None:
    from cispo.learner.deepspeed import DeepSpeedLearner

    rule = make_rule(micro_batch_tokens=20)
    learner = DeepSpeedLearner(TablePolicy().to(dtype), rule, zero_stage=stage, **ADAMW)
    learner.step(random_samples(6))
    learner.save(tmp_path)
    published = tensors(learner.buckets(version=1, max_bytes=1000))
    found = saved_weights(tmp_path)
    assert found.keys() == published.keys()
    for name, tensor in published.items():
        assert found[name].dtype == torch.float32
        assert torch.equal(found[name].to(dtype), tensor)
