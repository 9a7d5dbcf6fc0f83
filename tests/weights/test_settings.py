"""What `weights` in the configuration may be, and which way of the weights it takes."""

from pathlib import Path
from typing import Any

import pytest

from cispo.config import LearnerConfig, RolloutConfig, RunConfig, TasksConfig, WeightsConfig
from cispo.errors import ConfigError
from cispo.weights.object_store import ObjectStore
from cispo.weights.shared_file import SharedFolder
from cispo.weights.sync import Broadcasts
from launch.build import _way_of_weights


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"transport": "nfs"}, r"^weights\.transport=nfs: choose object_store, file or collective"),
        ({"folder": ""}, r"^weights\.folder=: name a folder"),
        ({"bucket_bytes": 1000}, r"^weights\.bucket_bytes=1000: must be >= 65536"),
        ({"timeout_seconds": 0}, r"^weights\.timeout_seconds=0: must be > 0"),
    ],
)
def test_what_cannot_work_is_refused(knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        WeightsConfig(**knobs)


def run_config(transport: str, *, num_gpus: float = 0.0) -> RunConfig:
    return RunConfig(
        tasks=TasksConfig(path="tasks.jsonl"),
        weights=WeightsConfig(transport=transport, folder="/some/folder"),
        learner=LearnerConfig(num_gpus=1.0),
        rollout=RolloutConfig(num_gpus=num_gpus),
    )


def test_the_configuration_chooses_the_way() -> None:
    assert _way_of_weights(run_config("object_store")) == ObjectStore()
    assert _way_of_weights(run_config("file")) == SharedFolder(Path("/some/folder"))


@pytest.mark.parametrize(("num_gpus", "backend"), [(0.0, "gloo"), (1.0, "nccl")])
def test_a_broadcast_goes_by_nccl_only_where_both_ends_have_gpus(
    num_gpus: float, backend: str
) -> None:
    way = _way_of_weights(run_config("collective", num_gpus=num_gpus))
    assert isinstance(way, Broadcasts)
    assert way._backend == backend
