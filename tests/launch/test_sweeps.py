"""Each job of a sweep has a folder and a name of its own."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from launch.sweeps import set_apart
from tests.launch.commands import call


@pytest.mark.parametrize(
    ("config_name", "key"), [("train", "run_dir"), ("sft", "run_dir"), ("evaluate", "output")]
)
def test_a_job_is_set_apart_by_what_is_swept(config_name: str, key: str) -> None:
    config = OmegaConf.create({"name": "a", key: "runs/${name}"})
    set_apart(config, "policy.path=runs/b/policy,seed=1", config_name=config_name)
    assert config[key] == "runs/a_sweep/policy.path=runs_b_policy,seed=1"
    assert config.name == "a policy.path=runs/b/policy,seed=1"


def test_a_command_that_writes_no_folder_is_left_alone() -> None:
    config = OmegaConf.create({"name": "a", "run_dir": "runs/a"})
    set_apart(config, "seed=1", config_name="plan")
    assert config == {"name": "a", "run_dir": "runs/a"}


def test_every_job_of_a_sweep_is_tried_and_what_was_refused_is_said(tmp_path: Path) -> None:
    ran = call(
        "--multirun",
        "experiment=smoke",
        "overwrite=false",
        "updates_per_iteration=5,7",
        folder=tmp_path,
    )
    assert ran.returncode == 2
    *jobs, last = [line for line in ran.stderr.splitlines() if line.startswith("error: ")]
    assert [line.split(": ")[1] for line in jobs] == [
        "updates_per_iteration=5",
        "updates_per_iteration=7",
    ]
    assert last == "error: not all jobs of the sweep have succeeded; see above, or their logs"
    assert (tmp_path / "runs" / "smoke_sweep" / "multirun.yaml").is_file()
