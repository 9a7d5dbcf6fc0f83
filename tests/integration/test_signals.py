"""A run that is asked to stop keeps what it learned, leaves no process, and goes on later."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

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

ITERATIONS = 6
RUN = (
    *LITTLE,
    f"tasks.sources=[{SUMS}]",
    f"iterations={ITERATIONS}",
    "checkpoint_every=0",  # whatever is kept before the last iteration, the stop has kept
    "learner.backend=local",
    "learner.optimizer.lr=1e-3",
    "reward.verifiers=[logic]",
    "reward.overlong_cache_tokens=23",
    "rollout.sampling.max_new_tokens=24",
    "evaluation.every=-1",
    "watchdog.dump_seconds=4",
    "cluster.startup_seconds=600",
)


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> str:
    return cold_start(tmp_path_factory)


def wait_until(is_so: Callable[[], bool], *, what: str) -> None:
    """As `tests.waiting.wait_until`, for as long as a whole run may take to start."""
    deadline = time.monotonic() + 600.0
    while not is_so():
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
    done = lines(folder)[-1]["step"]
    assert f"{number.name}: sampling is given up, what is being learned is completed" in output
    assert output.splitlines()[-1] == (
        f"stopped by {number.name}; continue with resume={folder} (checkpoint iteration-{done:08d})"
    )
    wait_until(lambda: alive(mark) == [], what="no process is left")
    assert not (folder / ".stacks").exists()


def stop_while_sampling(run: subprocess.Popen[str], folder: Path, mark: str) -> None:
    """Hold the rollout actor still, and ask once the watchdog has seen that it samples."""
    log = folder / "log.txt"

    def stalls() -> list[str]:
        said = log.read_text().splitlines() if log.exists() else []
        return [line for line in said if "rollout-0 (stopped)" in line]

    while not any("waiting: sample " in line for line in stalls()):
        num_before = len(stalls())
        num_done = len(lines(folder))
        wait_until(lambda n=num_done: len(lines(folder)) > n, what="an iteration is done")
        (actor,) = processes(mark, "rollout actor")
        os.kill(actor, signal.SIGSTOP)
        wait_until(lambda n=num_before: len(stalls()) > n, what="the watchdog shows a stall")
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


def test_runs_that_were_stopped_while_sampling_and_while_learning_equal_one_that_was_not(
    policy: str, tmp_path: Path
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    finish(start("launch.train", *RUN, f"policy.path={policy}", f"run_dir={whole}"))
    mine = (*RUN, f"policy.path={policy}", f"run_dir={stopped}")

    with running(*mine, mark=f"{stopped}-1") as run:
        stop_while_sampling(run, stopped, f"{stopped}-1")
        ended(run, signal.SIGTERM, stopped, f"{stopped}-1")
    texts = [path.read_text() for path in stopped.glob("stacks-*.txt")]
    (stacks,) = [text for text in texts if "wrote nothing: it is stopped" in text]
    for shown in ("driver (process ", "coroutines of the driver", "learner rank 0 (process "):
        assert shown in stacks
    before = len(lines(stopped))
    assert before < ITERATIONS

    with running(*mine, f"resume={stopped}", mark=f"{stopped}-2") as run:
        wait_until(lambda: is_learning(f"{stopped}-2"), what="the learner takes a step")
        os.killpg(run.pid, signal.SIGINT)  # as a terminal does, to the whole group
        ended(run, signal.SIGINT, stopped, f"{stopped}-2")
    assert before < len(lines(stopped)) < ITERATIONS

    finish(start("launch.train", *mine, f"resume={stopped}"))
    assert any(line["learn/grad_norm"] > 0 for line in lines(whole))
    assert learned(stopped) == learned(whole)
    assert rollouts(stopped) == rollouts(whole)
