"""A run that is asked to stop, or is killed, goes on later as if it never had been."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import waiting
from tests.integration.small_run import (
    KINDS,
    LITTLE,
    SUMS,
    cold_start,
    finish,
    learned,
    lines,
    processes,
    rollouts,
    start,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

RUN = (
    *LITTLE,
    f"tasks.sources=[{SUMS}]",
    "checkpoint_every=2",
    "learner.optimizer.lr=1e-3",
    "reward.verifiers=[logic]",
    "reward.overlong_cache_tokens=23",
    "rollout.sampling.max_new_tokens=24",
    "evaluation.every=2",
    "evaluation.num_tasks=4",
    "evaluation.sampling.max_new_tokens=24",
    "watchdog.dump_seconds=4",
    "cluster.startup_seconds=600",
)
ENDLESS = "iterations=10000"
"""However long it takes to stop a run, it is not done by then."""


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> str:
    return cold_start(tmp_path_factory)


def wait_until(run: subprocess.Popen[str], is_so: Callable[[], bool], *, what: str) -> None:
    """As `tests.waiting.wait_until`, for as long as a whole run may take to start."""
    deadline = time.monotonic() + 600.0
    while not is_so():
        assert run.poll() is None, f"the run ended before {what}:\n{run.communicate()[0]}"
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.02)


@contextmanager
def running(*overrides: str, mark: str) -> Iterator[subprocess.Popen[str]]:
    """A run that does not outlive a test that fails."""
    run = start("launch.train", *overrides, mark=mark)
    try:
        yield run
    finally:
        if run.poll() is None:
            run.kill()
            run.communicate()


def alive(mark: str) -> list[int]:
    return [pid for kind in KINDS for pid in processes(mark, kind)]


def ended(run: subprocess.Popen[str], number: signal.Signals, folder: Path, mark: str) -> None:
    """Check how a run ended that was asked to stop."""
    output, _ = run.communicate(timeout=600)
    assert run.returncode == 128 + number, output
    done = last_step(folder)
    assert f"{number.name}: sampling is given up, what is being learned is completed" in output
    assert output.splitlines()[-1] == (
        f"stopped by {number.name}; continue with resume={folder} (checkpoint iteration-{done:08d})"
    )
    waiting.wait_until(lambda: alive(mark) == [], what="no process is left")
    assert not (folder / ".stacks").exists()


def last_step(folder: Path) -> int:
    return max((line["step"] for line in lines(folder)), default=0)


def stop_while_sampling(run: subprocess.Popen[str], folder: Path, mark: str) -> None:
    """Hold the rollout actor still, and ask once the watchdog has seen that it samples."""
    log = folder / "log.txt"

    def stalls() -> list[str]:
        said = log.read_text().splitlines() if log.exists() else []
        return [line for line in said if "rollout-0 (stopped)" in line]

    while not any("waiting: sample " in line for line in stalls()):
        num_before = len(stalls())
        num_done = last_step(folder)
        wait_until(run, lambda n=num_done: last_step(folder) > n, what="an iteration is done")
        (actor,) = processes(mark, "rollout actor")
        os.kill(actor, signal.SIGSTOP)
        wait_until(run, lambda n=num_before: len(stalls()) > n, what="the watchdog shows a stall")
        if "waiting: sample " not in stalls()[-1]:  # it had sampled already, and was published to
            os.kill(actor, signal.SIGCONT)
    run.send_signal(signal.SIGTERM)


def is_learning(mark: str) -> bool:
    """Ray shows in an actor's name what it does."""
    for pid in processes(mark, "learner rank"):
        try:
            if b"LearnerActor.step" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return True
        except FileNotFoundError:
            continue
    return False


def kill_between_checkpoints(run: subprocess.Popen[str], folder: Path) -> None:
    """Kill the whole run after it logged an iteration that no checkpoint has."""
    before = last_step(folder)

    def has_more_than_its_checkpoint() -> bool:
        kept = max((folder / "checkpoints").glob("iteration-????????"))
        return last_step(folder) > max(before, int(kept.name.removeprefix("iteration-")))

    wait_until(run, has_more_than_its_checkpoint, what="an iteration after a checkpoint")
    os.killpg(run.pid, signal.SIGKILL)
    run.communicate()


def test_a_run_that_was_stopped_twice_and_killed_once_equals_one_that_was_not(
    policy: str, tmp_path: Path
) -> None:
    folder, whole = tmp_path / "stopped", tmp_path / "whole"
    run = (*RUN, f"policy.path={policy}")
    mine = (*run, f"run_dir={folder}")

    with running(*mine, ENDLESS, mark=f"{folder}-1") as first:
        stop_while_sampling(first, folder, f"{folder}-1")
        ended(first, signal.SIGTERM, folder, f"{folder}-1")
    texts = [path.read_text() for path in folder.glob("stacks-*.txt")]
    (stacks,) = [text for text in texts if "wrote nothing: it is stopped" in text]
    for shown in ("driver (process ", "coroutines of the driver", "learner rank 0 (process "):
        assert shown in stacks

    with running(*mine, ENDLESS, f"resume={folder}", mark=f"{folder}-2") as second:
        wait_until(second, lambda: is_learning(f"{folder}-2"), what="the learner takes a step")
        os.killpg(second.pid, signal.SIGINT)  # as a terminal does, to the whole group
        ended(second, signal.SIGINT, folder, f"{folder}-2")

    with running(*mine, ENDLESS, f"resume={folder}", mark=f"{folder}-3") as third:
        kill_between_checkpoints(third, folder)

    iterations = last_step(folder) + 1
    finish(start("launch.train", *mine, f"iterations={iterations}", f"resume={folder}"))
    finish(start("launch.train", *run, f"iterations={iterations}", f"run_dir={whole}"))
    assert [line["step"] for line in lines(whole)] == list(range(iterations + 1))
    assert any(line.get("learn/grad_norm", 0.0) > 0 for line in lines(whole))
    assert learned(folder) == learned(whole)
    assert rollouts(folder) == rollouts(whole)
