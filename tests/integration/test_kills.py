"""A run whose processes are killed at random moments loses nothing, and counts nothing twice."""

import random
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.small_run import (
    LITTLE,
    PROGRAMS,
    SUMS,
    cold_start,
    finish,
    kill,
    learned,
    lines,
    once,
    processes,
    rollouts,
    start,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

ITERATIONS = 20
"""Of the run that nothing disturbs; the others go on until they were disturbed enough."""

RUN = (
    *LITTLE,
    f"tasks.sources=[{SUMS}, {PROGRAMS}]",
    "checkpoint_every=1",
    "max_restarts=10",
    "learner.backend=local",
    "learner.optimizer.lr=1e-5",  # lengths, and so the time of an iteration, stay what they are
    "reward.verifiers=[logic, code]",
    "reward.overlong_cache_tokens=63",
    "rollout.sampling.max_new_tokens=64",
    "evaluation.every=-1",
)
ORDERLY = ("driver", "learner rank", "rollout actor", "reward worker", "sandbox")
MORE = ("rollout actor", "reward worker", "sandbox", "sandbox", "sandbox")
KINDS = (*ORDERLY, *MORE)
LONGEST_WAIT_SECONDS = 240.0


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> str:
    return cold_start(tmp_path_factory)


@pytest.fixture(scope="module")
def whole(policy: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""

    def make(folder: Path) -> None:
        mine = (f"policy.path={policy}", f"run_dir={folder}", f"iterations={ITERATIONS}")
        finish(start("launch.train", *RUN, *mine))

    return once(tmp_path_factory, "undisturbed", make)


class Run:
    """A run that is started again whenever its driver has died."""

    def __init__(self, folder: Path, overrides: Sequence[str]) -> None:
        self._folder = folder
        self._overrides = (*RUN, *overrides, f"run_dir={folder}", "iterations=10000")
        self._starts = 0
        self._driver = self._start()

    def kill_one(self, kind: str, *, at_iteration: int, chance: random.Random) -> None:
        """Kill a process of a kind at a random moment after an iteration was logged."""
        deadline = time.monotonic() + LONGEST_WAIT_SECONDS
        while time.monotonic() < deadline:
            self._refuse_an_end()
            if len(lines(self._folder)) >= at_iteration and (found := self._living(kind)):
                time.sleep(0.5 * chance.random())
                if kill(chance.choice(found)):
                    if kind == "driver":
                        self._driver.communicate()
                        self._driver = self._start()
                    return
            time.sleep(0.05)
        raise AssertionError(f"no {kind} was found after iteration {at_iteration}")

    def stop(self) -> None:
        """Ask it to end, once it has logged another iteration."""
        num_done = len(lines(self._folder))
        while len(lines(self._folder)) == num_done:
            self._refuse_an_end()
            time.sleep(0.05)
        self._driver.terminate()
        output, _ = self._driver.communicate(timeout=LONGEST_WAIT_SECONDS)
        assert self._driver.returncode == 128 + signal.SIGTERM, output

    def lose_its_learner(self) -> str:
        """Kill the learner again and again until the run gives up; returns what it printed."""
        deadline = time.monotonic() + LONGEST_WAIT_SECONDS
        while self._driver.poll() is None:
            assert time.monotonic() < deadline, "the run starts its learner again for ever"
            for rank in self._living("learner rank"):
                kill(rank)
            time.sleep(0.05)
        output, _ = self._driver.communicate()
        assert self._driver.returncode == 2, output
        return output

    def abandon(self) -> None:
        if self._driver.poll() is None:
            self._driver.kill()
            self._driver.communicate()

    def _start(self) -> subprocess.Popen[str]:
        has_checkpoint = any((self._folder / "checkpoints").glob("iteration-*"))
        self._starts += 1
        again = (f"resume={self._folder}",) if has_checkpoint else ("overwrite=true",)
        return start("launch.train", *self._overrides, *again, mark=self._mark)

    @property
    def _mark(self) -> str:
        return f"{self._folder}-{self._starts}"

    def _living(self, kind: str) -> list[int]:
        return processes(self._mark, kind)

    def _refuse_an_end(self) -> None:
        if self._driver.poll() is not None:
            raise AssertionError(f"the run ended by itself:\n{self._driver.communicate()[0]}")


@contextmanager
def running(folder: Path, *overrides: str) -> Iterator[Run]:
    run = Run(folder, overrides)
    try:
        yield run
    finally:
        run.abandon()


def disturb(run: Run, kinds: Sequence[str], *, seed: int) -> None:
    """Kill one process after each iteration, in random order."""
    chance = random.Random(seed)
    kinds = chance.sample(kinds, len(kinds))
    for iteration, kind in enumerate(kinds, start=1):
        run.kill_one(kind, at_iteration=iteration, chance=chance)


def test_with_no_staleness_killed_processes_change_not_one_bit(
    policy: str, whole: Path, tmp_path: Path
) -> None:
    killed = tmp_path / "killed"
    with running(killed, f"policy.path={policy}") as run:
        disturb(run, KINDS, seed=1)
        run.stop()

    both = min(len(lines(killed)), ITERATIONS)
    assert [line["step"] for line in lines(killed)[:both]] == list(range(1, both + 1))
    assert both >= len(KINDS)
    assert any(line["learn/grad_norm"] > 0 for line in lines(whole)[:both])
    assert learned(killed)[:both] == learned(whole)[:both]
    assert list(rollouts(killed).items())[:both] == list(rollouts(whole).items())[:both]


def test_with_staleness_no_task_is_lost_or_trained_twice(
    policy: str, whole: Path, tmp_path: Path
) -> None:
    killed = tmp_path / "killed"
    with running(killed, f"policy.path={policy}", "max_staleness=2", "max_restarts=1") as run:
        disturb(run, KINDS, seed=2)
        output = run.lose_its_learner()

    said = output.splitlines()[-1]
    assert re.fullmatch(
        r"error: learner rank 0 of 1 died during \w+: .*, in iteration \d+, after 1 restarts from "
        rf"{killed}/checkpoints/iteration-\d+; max_restarts=1\. When the cause is gone, continue "
        rf"with resume={killed}",
        said,
    )
    assert (killed / "log.txt").read_text().endswith(f"UTC  {said}\n")
    done = len(lines(killed))
    assert [line["step"] for line in lines(killed)] == list(range(1, done + 1))
    assert max(line["staleness/max"] for line in lines(killed)) <= 2
    both = min(done, ITERATIONS)
    assert both >= len(KINDS)
    assert tasks(killed)[:both] == tasks(whole)[:both]  # which they are depends on no staleness


def tasks(folder: Path) -> list[list[str]]:
    """Tasks that were trained on, by iteration; the groups' members stand side by side."""
    return [[rollout["task_id"] for rollout in file] for file in rollouts(folder).values()]
