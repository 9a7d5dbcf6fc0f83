"""A run that is killed and resumed logs the same numbers, to the last bit, as one that was not."""

import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.integration.small_run import (
    LITTLE,
    SUMS,
    cold_start,
    finish,
    learned,
    lines,
    rollouts,
    start,
)

ITERATIONS = 4
RUN = (
    *LITTLE,
    f"tasks.sources=[{SUMS}]",
    f"iterations={ITERATIONS}",
    "checkpoint_every=2",
    "reward.overlong_cache_tokens=23",
    "rollout.sampling.max_new_tokens=24",
    "evaluation.num_tasks=4",
    "evaluation.sampling.max_new_tokens=24",
    "learner.optimizer.lr=1e-3",
)


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> str:
    return cold_start(tmp_path_factory)


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

    assert [line["step"] for line in lines(whole)] == list(range(ITERATIONS + 1))
    assert all(line["engine/actors"] == 1 for line in lines(whole) + lines(killed))
    assert any(line.get("learn/grad_norm", 0.0) > 0 for line in lines(whole))
    assert learned(killed) == learned(whole)
    assert rollouts(killed) == rollouts(whole)
