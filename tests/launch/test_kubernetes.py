"""The example for Kubernetes composes, and asks its pods for what its run needs."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_module

from cispo.config import RunConfig
from launch.command import _store_schemas
from launch.typed import to_typed
from tests.launch.commands import ROOT


@pytest.fixture
def spec() -> Any:
    text = (ROOT / "launch" / "kubernetes" / "rayjob.yaml").read_text()
    return yaml.safe_load(text)["spec"]


@pytest.fixture
def cfg(spec: Any) -> RunConfig:
    _store_schemas()
    command, *overrides = spec["entrypoint"].split("launch.train ")[1:]
    with initialize_config_module("conf", version_base="1.3"):
        return to_typed(compose("train", overrides=[*command.split(), *overrides]), RunConfig)


def test_the_run_waits_for_all_pods_and_has_a_gpu_for_each_of_its_actors(
    spec: Any, cfg: RunConfig
) -> None:
    cluster = spec["rayClusterSpec"]
    (workers,) = cluster["workerGroupSpecs"]
    assert cfg.cluster.num_nodes == 1 + workers["replicas"]
    (pod,) = workers["template"]["spec"]["containers"]
    gpus = int(pod["resources"]["limits"]["nvidia.com/gpu"]) * workers["replicas"]
    learner, rollout = cfg.learner, cfg.rollout
    assert learner.num_ranks * learner.num_gpus + rollout.num_actors * rollout.num_gpus == gpus


def test_the_run_can_be_started_again_and_again(spec: Any, cfg: RunConfig) -> None:
    assert cfg.resume == "auto"
    assert spec["backoffLimit"] > 0
    assert Path(cfg.run_dir).is_relative_to("/shared")
    (head,) = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"]
    (wait,) = [v["value"] for v in head["env"] if v["name"] == "RAY_JOB_STOP_WAIT_TIME_S"]
    assert int(wait) > 60
