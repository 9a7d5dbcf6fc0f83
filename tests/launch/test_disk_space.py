"""A run whose checkpoints cannot fit is refused before it starts, with the numbers."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cispo.checkpoint import checkpoint_bytes
from cispo.config import LearnerConfig, PolicyConfig
from cispo.errors import ConfigError
from launch.disk_space import check_disk_space, estimated_bytes, num_at_once
from tests.checkpoint.saved import save


def test_checkpoints_that_do_not_fit_are_refused_with_the_numbers(tmp_path: Path) -> None:
    run_dir = tmp_path / "runs" / "run"
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(ConfigError) as error:
        check_disk_space(str(run_dir), one_checkpoint=free, count=3)
    message = str(error.value)
    assert message.startswith(f"run_dir={run_dir}: its disk has ")
    assert f"checkpoints need {3 * free / 1e9:.3g} GB more: 3 of about" in message
    assert "lower keep_checkpoints" in message
    check_disk_space(str(run_dir), one_checkpoint=free // 10, count=3)
    check_disk_space(str(run_dir), one_checkpoint=None, count=3)
    assert not run_dir.exists()


def test_checkpoints_that_are_there_already_need_no_more_room(tmp_path: Path) -> None:
    save(tmp_path / "checkpoints", 1, 2)
    kept = sorted((tmp_path / "checkpoints").iterdir())
    assert [checkpoint_bytes(path) for path in kept] == [5, 5]  # "half" and one digit
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(ConfigError):
        check_disk_space(str(tmp_path), one_checkpoint=free * 2, count=1)
    (tmp_path / "checkpoints" / "iteration-00000001" / "run.json").unlink()
    check_disk_space(str(tmp_path), one_checkpoint=5, count=3)


@pytest.mark.parametrize(
    ("iterations", "every", "keep", "count"),
    [(100, 10, 2, 3), (10, 0, 2, 1), (15, 10, 5, 2), (10, 10, 1, 1), (5, 10, 2, 1)],
)
def test_as_many_lie_there_at_once_as_are_kept_and_the_one_being_written(
    iterations: int, every: int, keep: int, count: int
) -> None:
    assert num_at_once(iterations=iterations, checkpoint_every=every, keep=keep) == count


def test_the_size_is_estimated_from_the_headers_of_the_policys_files(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(6, 5), "b": torch.zeros(2)}, tmp_path / "one.safetensors")
    save_file({"c": torch.zeros(8).bfloat16()}, tmp_path / "two.safetensors")

    def estimate(dtype: str, **learner: object) -> int | None:
        policy = PolicyConfig(path=str(tmp_path), dtype=dtype)
        return estimated_bytes(policy, LearnerConfig(**learner))  # type: ignore[arg-type]

    assert estimate("float32", backend="local") == 40 * 12
    assert estimate("float32", zero_stage=1) == 40 * 16
    assert estimate("bfloat16", zero_stage=2) == 40 * 14
    assert estimate("bfloat16", zero_stage=3) == 40 * 12
    (tmp_path / "two.safetensors").write_bytes(b"\x08" + bytes(7) + b"nonsense")
    assert estimate("float32") is None


def test_a_policy_of_the_hub_has_no_estimate() -> None:
    assert estimated_bytes(PolicyConfig(path="owner/name"), LearnerConfig()) is None
