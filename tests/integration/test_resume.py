"""A run that is killed and resumed logs the same numbers, to the last bit, as one that was not."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ITERATIONS = 4
SMALL = (
    "tasks.sources=[{kind: reasoning_gym, name: chain_sum, size: 500, "
    "options: {min_terms: 2, max_terms: 2, min_digits: 1, max_digits: 1}}]",
    "tracking.wandb_mode=disabled",
)
RUN = (
    "experiment=smoke",
    *SMALL,
    f"iterations={ITERATIONS}",
    "tasks_per_iteration=4",
    "group_size=4",
    "updates_per_iteration=2",
    "checkpoint_every=2",
    # a barely trained policy is never right; how long it writes is the signal
    "objective.dynamic_sampling=false",
    "reward.weights.overlong=1.0",
    "reward.overlong_cache_tokens=23",
    "rollout.sampling.max_new_tokens=24",
    "evaluation.num_tasks=4",
    "evaluation.sampling.max_new_tokens=24",
    "learner.optimizer.lr=1e-3",
)


def start(module: str, *overrides: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", module, *overrides],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=500)
    assert process.returncode == 0, output
    return output


def metrics(folder: Path) -> Sequence[dict[str, float]]:
    """The run's lines without what a clock measured or depends on timing."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert all(line["engine/actors"] == 1 for line in lines)
    timed = ("time/", "engine/", "overlap/")
    return [{k: v for k, v in line.items() if not k.startswith(timed)} for line in lines]


def rollouts(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted((folder / "rollouts").glob("*.gz"))}


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("cold_start")
    finish(
        start(
            "launch.sft",
            "experiment=smoke_cold_start",
            *SMALL,
            f"run_dir={folder}",
            "steps=40",
            "batch_tasks=16",
        )
    )
    return str(folder / "policy")


def was_killed_in_time(policy: str, folder: Path) -> bool:
    """Start a run and kill it after its first checkpoint; whether that was before its last."""
    doomed = start("launch.train", *RUN, f"policy.path={policy}", f"run_dir={folder}")
    while not (folder / "checkpoints" / "iteration-00000002").exists():
        assert doomed.poll() is None, doomed.communicate()[0]
        time.sleep(0.01)
    os.killpg(doomed.pid, signal.SIGKILL)
    doomed.wait()
    return not (folder / "checkpoints" / f"iteration-{ITERATIONS:08d}").exists()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_killed_and_resumed_run_equals_one_that_was_never_killed(
    policy: str, tmp_path: Path
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(start("launch.train", *RUN, f"policy.path={policy}", f"run_dir={whole}"))

    while not was_killed_in_time(policy, killed):
        shutil.rmtree(killed)

    resumed = (*RUN, f"policy.path={policy}", f"run_dir={killed}", f"resume={killed}")
    finish(start("launch.train", *resumed))

    assert [line["step"] for line in metrics(whole)] == list(range(ITERATIONS + 1))
    assert any(line.get("learn/grad_norm", 0.0) > 0 for line in metrics(whole))
    assert metrics(killed) == metrics(whole)
    assert rollouts(killed) == rollouts(whole)
