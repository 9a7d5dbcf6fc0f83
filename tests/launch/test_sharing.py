"""Ranks that cannot share rows of a model are refused before they start."""

import json
from pathlib import Path

import pytest

from cispo.config import LearnerConfig, PolicyConfig
from cispo.errors import ConfigError
from launch.sharing import check_sharing
from tests.policy.models import make_config


def folder_with(tmp_path: Path, **fields: object) -> PolicyConfig:
    config = make_config(num_attention_heads=12, num_key_value_heads=4, **fields)
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    return PolicyConfig(path=str(tmp_path))


def test_ranks_must_divide_the_heads_of_softmax_layers(tmp_path: Path) -> None:
    policy = folder_with(tmp_path)
    for size in (1, 2, 3, 4, 6, 12):
        check_sharing(policy, size)
    for size in (5, 8, 24):
        with pytest.raises(ConfigError, match=rf"sequence_parallel={size}: .*attention_heads=12"):
            check_sharing(policy, size)


def test_a_model_of_lightning_layers_takes_any_number_of_ranks(tmp_path: Path) -> None:
    check_sharing(folder_with(tmp_path, layer_types=("linear_attention",) * 4), 5)


def test_ranks_that_share_rows_must_divide_all_ranks() -> None:
    assert LearnerConfig(num_ranks=8, sequence_parallel=4).sequence_parallel == 4
    for settings in (
        {"num_ranks": 8, "sequence_parallel": 3},
        {"num_ranks": 2, "sequence_parallel": 4},
        {"num_ranks": 2, "sequence_parallel": 0},
        {"backend": "local", "sequence_parallel": 2},
    ):
        with pytest.raises(ConfigError, match=r"learner\.sequence_parallel=\d: must divide"):
            LearnerConfig(**settings)  # type: ignore[arg-type]
