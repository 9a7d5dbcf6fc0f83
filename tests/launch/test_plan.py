"""`python -m launch.plan`: takes what training takes, and refuses what cannot fit."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.launch.commands import ROOT, check_refused
from tests.launch.commands import call as call_any

TINY = ("experiment=smoke", "policy=lightning_tiny", "policy.path=null")


def call(*overrides: str) -> subprocess.CompletedProcess[str]:
    return call_any(*overrides, command="plan")


def test_the_smoke_run_is_planned(tmp_path: Path) -> None:
    output = tmp_path / "plans" / "plan.json"
    ran = call(*TINY, f"output={output}")
    assert ran.returncode == 0, ran.stderr
    assert "32 tasks x 8 = 256 rollouts -> 8 updates of 32 (4 tasks each)" in ran.stdout
    assert "918,912 parameters" in ran.stdout
    plan = json.loads(output.read_text())
    assert plan["parameters"] == 918_912
    assert plan["bottleneck"] in plan["seconds"]
    assert plan["sampled_rollouts"] == pytest.approx(256 / 0.7)
    assert plan["simulated"]["staleness_rollouts"] == {"0": 8 * 256}


def test_sampling_ahead_is_planned_as_such(tmp_path: Path) -> None:
    output = tmp_path / "plan.json"
    settings = ("objective.dynamic_sampling=false", "assume.iterations=4", f"output={output}")
    assert call(*TINY, "max_staleness=1", *settings).returncode == 0
    ahead = json.loads(output.read_text())["simulated"]
    assert call(*TINY, *settings).returncode == 0
    after = json.loads(output.read_text())["simulated"]
    assert set(ahead["staleness_rollouts"]) == {"0", "1"}
    assert ahead["iteration_seconds"] < after["iteration_seconds"]


def test_m1_on_512_h800_is_planned(tmp_path: Path) -> None:
    output = tmp_path / "plan.json"
    small = ("tasks_per_iteration=64", "assume.iterations=1")
    ran = call("experiment=m1_plan", *small, f"output={output}")
    assert ran.returncode == 0, ran.stderr
    assert "456,089,655,296 parameters; 45.94B active without embeddings" in ran.stdout
    assert "D: B without the causal half          29.0%    22.2%    26.1K" in ran.stdout
    plan = json.loads(output.read_text())
    assert plan["devices"] == 512
    assert plan["sync_bytes"] == 912_210_767_872
    assert sum(plan["engine_bytes"].values()) < 72e9
    assert sum(plan["learner_bytes"].values()) < 72e9


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("rollout.max_sequences=4096", ("keys and values", "rollout.max_sequences=", "what would")),
        ("rollout.num_gpus=8", ("most of it weights", "rollout.num_gpus=16")),
        ("learner.offload=none", ("most of it activations", "learner.offload=optimizer")),
        ("learner.zero_stage=2", ("most of it weights", "learner.zero_stage=3")),
        ("machine=cpu2", ("rollout.num_gpus=16", "machine=h100")),
        ("rollout.num_gpus=0", ("rollout.num_gpus=0", "has GPUs")),
        ("assume.mean_tokens=50000", ("assume.mean_tokens=50000", "40960")),
        ("assume.mean_token=5", ("did you mean assume.mean_tokens?",)),
        ("machine.learn_fraction=2", ("machine.learn_fraction=2", "(0, 1]")),
    ],
)
def test_what_cannot_fit_is_refused_with_what_would(override: str, words: tuple[str, ...]) -> None:
    check_refused(call("experiment=m1_plan", override), *words)


def test_what_is_advised_fits() -> None:
    refused = call("experiment=m1_plan", "learner.offload=none")
    advice = refused.stderr.split("what would fit: ")[1].split(" | ")[0].strip().split()
    settings = ("tasks_per_iteration=16", "assume.iterations=1")
    ran = call("experiment=m1_plan", "learner.offload=none", *advice, *settings)
    assert ran.returncode == 0, ran.stderr


def test_a_model_too_large_for_the_host_is_refused() -> None:
    ran = call(*TINY, "policy.architecture.hidden_size=65536")
    check_refused(ran, "machine=two cores", "larger machine")


def test_a_policy_that_is_not_there_is_refused() -> None:
    ran = call("experiment=smoke", "policy.path=runs/absent/policy")
    check_refused(ran, "policy.path=runs/absent/policy", "launch.sft")


def test_a_plan_takes_all_that_training_takes() -> None:
    plan, train = (
        yaml.safe_load((ROOT / "conf" / f"{name}.yaml").read_text())["defaults"]
        for name in ("plan", "train")
    )
    left_out = [entry for entry in train if entry not in plan]
    assert left_out == ["train_schema"]


def test_a_plan_loads_no_torch_and_no_ray() -> None:
    code = (
        "import sys; sys.argv = ['launch.plan', *sys.argv[1:]]; from launch.plan import main; "
        "main(); print([m for m in ('torch', 'ray', 'transformers') if m in sys.modules])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, *TINY, "assume.iterations=1"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=250,
        check=True,
    )
    assert ran.stdout.strip().endswith("[]")
