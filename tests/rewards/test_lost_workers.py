"""What the pool makes of workers that die, hang, fail or are slow; they are fakes, without Ray."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest
from ray.exceptions import RayActorError, RayTaskError

from cispo.errors import ConfigError
from cispo.types import Rollout, Task, Ungraded, Verdict
from rewards.pool import RewardPool
from tests.fakes import graded, make_rollout, make_task
from tests.waiting import until

DEATH = "It died.\n\tpid: 7\nThe actor is dead because its worker process has died."
Pairs = Sequence[tuple[Task, Rollout]]
Behaviour = Callable[[Pairs], Awaitable[Sequence[Verdict | BaseException]]]


class Handle:
    """Stands for a Ray actor with one method."""

    def __init__(self, behave: Behaviour) -> None:
        self.grade = self
        self.remote = behave


class Pool:
    """A pool whose workers behave as told, each in its own way."""

    def __init__(self, *behaviours: Behaviour, num_workers: int = 1, seconds: float = 60.0) -> None:
        self.killed: list[Handle] = []
        self._behaviours = list(behaviours)
        self.pool = RewardPool(
            self._start, max_attempts=3, limit_seconds=seconds, kill=self.killed.append
        )
        for _ in range(num_workers):
            self.pool._add()

    def _start(self) -> Handle:
        last = len(self._behaviours) == 1
        return Handle(self._behaviours[0] if last else self._behaviours.pop(0))

    async def grade(self, *texts: str) -> list[Verdict | BaseException]:
        task = make_task()
        gradings = (self.pool.grade(task, make_rollout(text=text)) for text in texts)
        return list(await asyncio.gather(*gradings, return_exceptions=True))


async def well(pairs: Pairs) -> Sequence[Verdict | BaseException]:
    return [graded(float(rollout.text)) for _, rollout in pairs]


def rewards(verdicts: Sequence[Verdict | BaseException]) -> list[float]:
    return [verdict.reward for verdict in verdicts]  # type: ignore[union-attr]


async def test_an_answer_that_kills_its_workers_takes_no_other_down() -> None:
    calls: list[list[str]] = []

    async def dies_of_poison(pairs: Pairs) -> Sequence[Verdict | BaseException]:
        calls.append([rollout.text for _, rollout in pairs])
        if "poison" in calls[-1]:
            raise RayActorError(error_msg=DEATH)
        return await well(pairs)

    pool = Pool(dies_of_poison)
    one, poison, zero = await pool.grade("1", "poison", "0")
    assert rewards([one, zero]) == [1.0, 0.0]
    assert isinstance(poison, Ungraded)
    assert poison.cause == ("after 3 attempts: reward worker 2 died: its worker process has died")
    assert calls[0] == ["1", "poison", "0"]
    assert all(len(call) == 1 for call in calls[1:])
    assert len(pool.killed) == pool.pool.num_replaced == 3
    faults = await pool.pool.lap()
    assert faults["faults/reward_worker_deaths"] == 3
    assert faults["faults/gradings_retried"] == 4  # all three once, and the poison once more
    assert not any((await pool.pool.lap()).values())


async def test_what_one_grading_raises_is_its_own_failure() -> None:
    async def fails_on_one(pairs: Pairs) -> Sequence[Verdict | BaseException]:
        return [
            KeyError("truth") if rollout.text == "bad" else graded(float(rollout.text))
            for _, rollout in pairs
        ]

    pool = Pool(fails_on_one)
    bad, good = await pool.grade("bad", "1")
    assert isinstance(bad, Ungraded)
    assert "KeyError('truth')" in bad.cause
    assert rewards([good]) == [1.0]
    assert pool.killed == []


async def test_a_worker_that_hangs_is_replaced_and_its_gradings_are_made_elsewhere(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def hangs(_: Pairs) -> Sequence[Verdict | BaseException]:
        return await asyncio.Future()

    pool = Pool(hangs, well, seconds=0.05)
    assert rewards(await pool.grade("1", "0", "1")) == [1.0, 0.0, 1.0]
    assert len(pool.killed) == 1
    assert (await pool.pool.lap())["faults/reward_worker_hangs"] == 1
    assert caplog.messages == [
        "reward worker 0 gave no answer in 0.05 s; another worker starts in its place"
    ]


async def test_workers_that_all_hang_leave_a_rollout_ungraded_with_the_reason() -> None:
    async def hangs(_: Pairs) -> Sequence[Verdict | BaseException]:
        return await asyncio.Future()

    pool = Pool(hangs, seconds=0.05)
    (verdict,) = await pool.grade("1")
    assert verdict == Ungraded(cause="after 3 attempts: reward worker 2 gave no answer in 0.05 s")


async def test_a_worker_whose_grading_timed_out_is_not_one_that_hangs() -> None:
    cause = TimeoutError("a server of its own")
    error = RayTaskError("grade", "its traceback", cause).as_instanceof_cause()
    assert isinstance(error, TimeoutError)

    async def times_out(_: Pairs) -> Sequence[Verdict | BaseException]:
        raise error

    pool = Pool(times_out)
    (verdict,) = await pool.grade("1")
    assert verdict == Ungraded(cause=f"after 3 attempts: reward worker 0 failed: {cause!r}")
    assert pool.killed == []


async def test_an_error_that_nobody_foresaw_reaches_those_who_wait_and_no_others() -> None:
    num_calls = 0

    async def breaks_once(pairs: Pairs) -> Sequence[Verdict | BaseException]:
        nonlocal num_calls
        num_calls += 1
        if num_calls == 1:
            raise ValueError("a reply of another version")
        return await well(pairs)

    pool = Pool(breaks_once)
    (error,) = await pool.grade("1")
    assert isinstance(error, ValueError)
    assert rewards(await pool.grade("1", "0")) == [1.0, 0.0]


async def test_gradings_wait_for_whichever_worker_is_free_first() -> None:
    released = asyncio.Event()
    taken = 0

    async def slow(pairs: Pairs) -> Sequence[Verdict | BaseException]:
        nonlocal taken
        taken += len(pairs)
        await released.wait()
        return await well(pairs)

    pool = Pool(slow, well, num_workers=2)
    task = make_task()
    gradings = [
        asyncio.create_task(pool.pool.grade(task, make_rollout(text="1"))) for _ in range(100)
    ]
    for done, grading in enumerate(asyncio.as_completed(gradings), start=1):
        await grading
        if done == 100 - taken:  # the other worker has done all the rest
            released.set()
    assert 1 <= taken <= 15


async def test_a_closed_pool_leaves_nobody_waiting() -> None:
    begun = asyncio.Event()

    async def never(_: Pairs) -> Sequence[Verdict | BaseException]:
        begun.set()
        return await asyncio.Future()

    pool = Pool(never)
    grading = asyncio.create_task(pool.grade(*["1"] * 30))
    await begun.wait()
    pool.pool.close()
    assert all(isinstance(end, asyncio.CancelledError) for end in await grading)


@pytest.mark.parametrize("is_dead", [False, True])
async def test_an_answer_that_comes_just_as_the_pool_closes_leaves_nobody_waiting(
    is_dead: bool,
) -> None:
    answer = asyncio.get_running_loop().create_future()
    pool = Pool(lambda _: answer)
    grading = asyncio.create_task(pool.grade("1"))
    await until(lambda: len(pool.pool._calls) == 1, what="the worker is asked")
    (call,) = pool.pool._calls
    await asyncio.sleep(0)  # it waits for the answer
    if is_dead:
        answer.set_exception(RayActorError(error_msg=DEATH))
    else:
        answer.set_result([graded(1.0)])
    pool.pool.close()
    await asyncio.wait([call])
    assert call.cancelled()
    for _ in range(5):
        await asyncio.sleep(0)
    assert grading.done()
    assert isinstance(grading.result()[0], asyncio.CancelledError)


@pytest.mark.parametrize("num_workers", [1, 3])
async def test_each_verdict_goes_to_the_one_who_asked(num_workers: int) -> None:
    pool = Pool(well, num_workers=num_workers)
    texts = [str(index % 2) for index in range(50)]
    assert rewards(await pool.grade(*texts)) == [float(text) for text in texts]


class Starting:
    """A worker that is there, or dies before it is."""

    def __init__(self, *, is_there: bool) -> None:
        self.start = self
        self._is_there = is_there

    async def remote(self) -> None:
        if not self._is_there:
            raise RayActorError(error_msg=DEATH)


async def test_a_worker_that_dies_while_it_starts_is_started_again() -> None:
    workers = [Starting(is_there=False), Starting(is_there=False), Starting(is_there=True)]
    killed: list[Starting] = []
    coming = iter(workers)
    pool = RewardPool(lambda: next(coming), max_attempts=3, limit_seconds=60.0, kill=killed.append)
    pool._add()
    await pool.wait_until_ready(60.0)
    assert killed == workers[:2]
    assert pool.worker_handles == (workers[2],)


async def test_a_worker_that_dies_in_each_start_ends_the_run_with_the_reason() -> None:
    pool = RewardPool(
        lambda: Starting(is_there=False), max_attempts=2, limit_seconds=60.0, kill=lambda _: None
    )
    pool._add()
    with pytest.raises(ConfigError, match=r"reward worker 1 died in start 2 of 2: .*process has"):
        await pool.wait_until_ready(60.0)
