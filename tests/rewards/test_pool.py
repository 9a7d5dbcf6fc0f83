"""Reward workers in Ray: gradings survive the death of workers, graders and programs."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from cispo.config import RewardConfig, SandboxConfig
from cispo.errors import ConfigError, SandboxUnavailableError
from cispo.types import Graded, Message, Rollout, Task, Ungraded, Verdict
from rewards.pool import RewardPool
from sandboxes.bubblewrap import BubblewrapSandbox
from tests.fakes import FakeProgress, make_rollout
from tests.waiting import PATIENCE_SECONDS, until

SERVER = b"sandboxes.inside.zygote"
"""In the command line of every fork server, of the jail around it, and of what it forks."""

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

SLOW_SUM = "import time\na, b = map(int, input().split())\ntime.sleep(0.4)\nprint(a + b + {wrong})"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool(ray_session: None) -> AsyncIterator[RewardPool]:
    try:
        BubblewrapSandbox()
    except SandboxUnavailableError as error:
        pytest.skip(f"NO SANDBOX ON THIS MACHINE, programs are untested: {error}")
    progress = FakeProgress()
    started = await RewardPool.start(
        RewardConfig(num_workers=2, deadline_seconds=30.0),
        SandboxConfig(max_concurrent=4),
        max_new_tokens=100,
        startup_seconds=120.0,
        progress=progress,
    )
    assert progress.events == ["start reward workers 2", "finish reward workers"]
    assert progress.waited[0] == "reward worker 0, reward worker 1"
    yield started
    started.close()


def tasks_and_rollouts(count: int) -> tuple[list[Task], list[Rollout]]:
    """Two programs and two sums in turn, so that both workers get both; every third is wrong."""
    tasks, rollouts = [], []
    for index in range(count):
        wrong = int(index % 3 == 2)
        is_math = index // 2 % 2 == 1
        if is_math:
            truth: dict[str, object] = {"answer": str(index)}
            text = rf"<think>.</think>\boxed{{{index + wrong}}}"
        else:
            truth = {"tests": [{"stdin": f"{index} 1\n", "stdout": f"{index + 1}\n"}]}
            text = f"<think>.</think>```python\n{SLOW_SUM.format(wrong=wrong)}\n```"
        tasks.append(
            Task(
                task_id=f"t{index}",
                messages=(Message(role="user", content="?"),),
                verifier="math" if is_math else "code",
                truth=truth,
            )
        )
        rollouts.append(make_rollout(f"t{index}", text=text))
    return tasks, rollouts


async def grade_all(pool: RewardPool, count: int) -> list[Verdict]:
    tasks, rollouts = tasks_and_rollouts(count)
    pairs = zip(tasks, rollouts, strict=True)
    return list(await asyncio.gather(*(pool.grade(task, rollout) for task, rollout in pairs)))


def expect_right_verdicts(verdicts: Iterable[Verdict]) -> None:
    for index, verdict in enumerate(verdicts):
        assert isinstance(verdict, Graded), verdict
        assert verdict.reward == float(index % 3 != 2), (index, verdict)


async def test_gradings_spread_over_workers_and_keep_their_order(pool: RewardPool) -> None:
    expect_right_verdicts(await grade_all(pool, 18))


async def test_a_killed_worker_costs_no_verdict_and_no_wrong_reward(pool: RewardPool) -> None:
    before = pool.num_replaced
    victim = processes(b"ray::RewardWorker")[0]
    grading = asyncio.create_task(grade_all(pool, 18))
    await until(lambda: is_stopped_at_work(victim), what="the worker runs a program")
    os.kill(victim, signal.SIGKILL)
    expect_right_verdicts(await grading)
    assert pool.num_replaced == before + 1
    assert len(pool.worker_handles) == 2


async def test_a_worker_that_is_stopped_is_replaced_and_another_grades(
    pool: RewardPool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stopped = pool._workers[0]
    await pool.lap()
    os.kill(await stopped.handle.__ray_call__.remote(lambda _: os.getpid()), signal.SIGSTOP)
    monkeypatch.setattr(pool, "_limit_seconds", 5.0)
    replace = pool._replace

    def replace_and_be_patient(*given: Any) -> None:
        monkeypatch.setattr(pool, "_limit_seconds", PATIENCE_SECONDS)
        replace(*given)

    monkeypatch.setattr(pool, "_replace", replace_and_be_patient)
    tasks, rollouts = tasks_and_rollouts(3)
    verdict = await pool.grade(tasks[2], rollouts[2])  # a sum, so that others need no time for it
    assert isinstance(verdict, Graded)
    assert (await pool.lap())["faults/reward_worker_hangs"] == 1
    assert f"{stopped.name} gave no answer in 5 s; another worker starts" in caplog.text


def is_stopped_at_work(worker: int) -> bool:
    """Stop a worker, unless no program runs below it whose end it would have to tell."""
    os.kill(worker, signal.SIGSTOP)
    if programs(below=worker):
        return True
    os.kill(worker, signal.SIGCONT)
    return False


def programs(*, below: int) -> list[int]:
    return [pid for pid in processes(SERVER, below=below) if name(pid) == "cispo-program"]


def jails(*, below: int) -> list[int]:
    return [pid for pid in processes(SERVER, below=below) if b"bwrap" in command(pid)]


@pytest.mark.parametrize("victims", [programs, jails])
async def test_what_is_killed_in_the_middle_costs_no_verdict_and_no_wrong_reward(
    pool: RewardPool, victims: Callable[..., list[int]]
) -> None:
    is_killed = False
    while not is_killed:
        grading = asyncio.create_task(grade_all(pool, 18))
        while not is_killed and not grading.done():
            await asyncio.sleep(0.05)
            for pid in victims(below=os.getpid())[-1:]:
                with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
                    os.kill(pid, signal.SIGKILL)
                    is_killed = True
        expect_right_verdicts(await grading)


async def test_a_task_that_no_worker_can_grade_is_ungraded_and_harms_no_other(
    pool: RewardPool,
) -> None:
    tasks, rollouts = tasks_and_rollouts(4)
    bad = Task(task_id="bad", messages=tasks[0].messages, verifier="math", truth={})
    verdict, good = await asyncio.gather(
        pool.grade(bad, rollouts[0]), pool.grade(tasks[3], rollouts[3])
    )
    assert isinstance(verdict, Ungraded)
    assert isinstance(good, Graded)
    assert good.reward == 1.0


async def test_workers_that_cannot_start_in_time_are_named(ray_session: None) -> None:
    with pytest.raises(ConfigError, match=r"reward worker 0.*reward.num_cpus"):
        await RewardPool.start(
            RewardConfig(num_cpus=1000.0, verifiers=["math"]),
            SandboxConfig(),
            max_new_tokens=100,
            startup_seconds=0.5,
        )


def processes(marker: bytes, *, below: int | None = None) -> list[int]:
    """Processes below one, by default this one, with a marker in their command."""
    root = below or os.getpid()
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue

    def is_below(pid: int) -> bool:
        while pid in parents:
            pid = parents[pid]
            if pid == root:
                return True
        return False

    return [pid for pid in sorted(parents) if marker in command(pid) and is_below(pid)]


def name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
