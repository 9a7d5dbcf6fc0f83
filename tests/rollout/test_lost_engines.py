"""What the pool makes of actors that die or hang at any moment; they are fakes, without Ray."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from cispo.config import SamplingConfig
from cispo.errors import RolloutError
from cispo.types import PolicyVersion, Rollout, Task
from rollout.pool import RolloutPool
from rollout.roster import Roster
from tests.fakes import make_task
from tests.rollout.fake_actors import FakeActor, FakeActors
from tests.waiting import until


@asynccontextmanager
async def started(
    source: FakeActors,
    *,
    num_actors: int = 1,
    max_attempts: int = 3,
    startup_seconds: float = 60.0,
    stall_seconds: float = 0.0,
) -> AsyncIterator[RolloutPool]:
    roster = Roster(
        source,
        num_actors=num_actors,
        max_attempts=max_attempts,
        startup_seconds=startup_seconds,
        stall_seconds=stall_seconds,
    )
    pool = RolloutPool(roster, SamplingConfig(), max_attempts=max_attempts, max_sequences=8)
    try:
        await roster.start(None)
        yield pool
    finally:
        pool.stop()


async def sample_all(pool: RolloutPool, count: int) -> list[Sequence[Rollout] | BaseException]:
    calls = (pool.sample(make_task(index), 2, seed=index) for index in range(count))
    return await asyncio.gather(*calls, return_exceptions=True)


def tasks_of(groups: Sequence[Sequence[Rollout] | BaseException]) -> list[str]:
    return [rollout.task_id for group in groups for rollout in group]  # type: ignore[union-attr]


def dies_first(method: str) -> Any:
    """The first actor dies when the method is called, in the midst of whatever else it does."""

    async def before(actor: FakeActor, name: str, *_: Any) -> None:
        await asyncio.sleep(0)
        if name == method and actor.name == "rollout-0":
            actor.die()
            await asyncio.Future()

    return before


@pytest.mark.parametrize("moment", ["sample", "load_weights", "statistics"])
async def test_an_actor_that_dies_at_any_moment_is_replaced_and_costs_no_rollout(
    moment: str, caplog: pytest.LogCaptureFixture
) -> None:
    source = FakeActors(before=dies_first(moment))
    async with started(source, num_actors=2) as pool:
        found = await pool.load_weights(PolicyVersion(1), ["bucket"])
        assert set(found.values()) == {"checksum"}
        await pool.lap()
        groups = await sample_all(pool, 6)
        assert tasks_of(groups) == [f"task-{i}" for i in range(6) for _ in range(2)]
        await until(lambda: len(pool._roster.members) == 2, what="the replacement joins")
        assert [member.name for member in pool._roster.members] == ["rollout-1", "rollout-2"]
        assert all(member.version == 1 for member in pool._roster.members)
    assert caplog.messages == [
        "rollout-0 died: its worker process has died. Worker exit type: SYSTEM_ERROR; "
        "another actor starts in its place"
    ]


async def test_faults_are_counted_by_kind_in_the_lap_in_which_they_happen() -> None:
    source = FakeActors(before=dies_first("sample"))
    async with started(source, num_actors=2) as pool:
        await sample_all(pool, 4)
        first, second = await pool.lap(), await pool.lap()
    faults = {name: value for name, value in first.items() if name.startswith("faults/")}
    assert faults == {
        "faults/engine_deaths": 1.0,
        "faults/engine_hangs": 0.0,
        "faults/engine_failed_starts": 0.0,
        "faults/requests_retried": 2.0,
    }
    assert not any(value for name, value in second.items() if name.startswith("faults/"))


async def test_an_actor_that_dies_in_its_start_is_started_again() -> None:
    num_starts = 0

    async def before(actor: FakeActor, name: str, *_: Any) -> None:
        nonlocal num_starts
        num_starts += name == "start"
        if name == "start" and num_starts <= 2:
            actor.die()
            await asyncio.Future()

    async with started(FakeActors(before=before)) as pool:
        assert len(await pool.sample(make_task(), 2, seed=1)) == 2
        assert (await pool.lap())["faults/engine_failed_starts"] == 2.0


async def test_an_actor_that_dies_in_every_start_ends_the_run_and_says_why() -> None:
    async def before(actor: FakeActor, *_: Any) -> None:
        actor.die()

    with pytest.raises(
        RolloutError,
        match=r"^rollout actor rollout-0 died in each of 3 starts, the last time: its worker proc",
    ):
        async with started(FakeActors(before=before)):
            pass


@pytest.mark.parametrize("method", ["start", "load_weights"])
async def test_an_actor_that_hangs_in_its_start_is_named_with_what_it_needs(method: str) -> None:
    async def before(actor: FakeActor, name: str, *_: Any) -> None:
        if name == method and (method == "start" or actor.name == "rollout-1"):
            await asyncio.Future()

    async def samples_after_a_death() -> None:
        async with started(FakeActors(before=before), startup_seconds=0.05) as pool:
            await pool.load_weights(PolicyVersion(1), [])
            pool._roster.members[0].handle.die()
            await pool.sample(make_task(), 1, seed=1)

    with pytest.raises(RolloutError, match=r"rollout-\d was not ready after 0\.05 s; it needs two"):
        await samples_after_a_death()


async def hangs_on_the_first(actor: FakeActor, _: Task) -> None:
    if actor.name == "rollout-0":
        await asyncio.Future()


async def test_an_engine_that_hangs_is_killed_and_its_tasks_are_sampled_elsewhere(
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = FakeActors(sampling=hangs_on_the_first)
    async with started(source, num_actors=2, stall_seconds=0.1) as pool:
        groups = await sample_all(pool, 4)
        assert tasks_of(groups) == [f"task-{i}" for i in range(4) for _ in range(2)]
        lap = await pool.lap()
        assert (lap["faults/engine_hangs"], lap["faults/engine_deaths"]) == (1.0, 0.0)
        assert source.killed == ["rollout-0"]
    assert caplog.messages[0].startswith(
        "rollout-0 hung: no step for 0.1 s with 2 requests under way; another actor starts"
    )


async def test_an_actor_that_is_stopped_is_found_though_nobody_asks_it_for_anything() -> None:
    source = FakeActors()
    async with started(source, stall_seconds=0.1) as pool:
        source.made[0].is_stopped = True
        await until(lambda: source.names[-1] == "rollout-1", what="another takes its place")
        await until(lambda: bool(pool._roster.members), what="it joins")
        assert pool._roster.faults == {"engine_hangs": 1}


async def test_an_actor_that_died_while_nothing_was_asked_of_it_is_replaced() -> None:
    source = FakeActors()
    async with started(source, stall_seconds=0.1) as pool:
        source.made[0].die()
        await until(lambda: source.names[-1] == "rollout-1", what="another takes its place")
        assert pool._roster.faults == {"engine_deaths": 1}


async def test_a_generation_that_takes_much_longer_than_the_limit_is_left_alone() -> None:
    async def long(actor: FakeActor, _: Task) -> None:
        while actor.calls.count("pulse") < 50:
            actor.num_moves += 1
            await asyncio.sleep(0)

    source = FakeActors(sampling=long)
    async with started(source, stall_seconds=0.1) as pool:  # 20 looks
        assert len(await pool.sample(make_task(), 2, seed=1)) == 2
    assert source.names == ["rollout-0"]


@pytest.mark.parametrize("num_actors", [1, 3])
async def test_the_task_that_kills_its_engines_is_named_and_no_other(num_actors: int) -> None:
    async def poisoned(actor: FakeActor, task: Task) -> None:
        for _ in range(5):
            await asyncio.sleep(0)
        if task.task_id == "task-3":
            actor.die()
            await asyncio.Future()

    source = FakeActors(sampling=poisoned)
    async with started(source, num_actors=num_actors) as pool:
        results = await sample_all(pool, 8)
        deaths = pool._roster.faults["engine_deaths"]
    [(index, error)] = [(i, r) for i, r in enumerate(results) if isinstance(r, BaseException)]
    assert (index, deaths) == (3, 3)
    assert str(error).startswith(
        "no rollouts for task task-3: all actors that sampled it were lost, and "
        "rollout.max_attempts=3: rollout-"
    )
    assert str(error).count(" died: ") == 3


async def test_engines_that_die_of_every_task_end_the_run_with_the_reason() -> None:
    async def deadly(actor: FakeActor, _: Task) -> None:
        actor.die()
        await asyncio.Future()

    source = FakeActors(sampling=deadly)
    async with started(source, max_attempts=2) as pool:
        with pytest.raises(RolloutError, match=r"^no rollouts for task task-0: .*rollout-1 died: "):
            await pool.sample(make_task(0), 1, seed=1)
        with pytest.raises(
            RolloutError,
            match=r"^no rollout actor is left: rollout-2 died: .* as did the 2 before it, and none",
        ):
            await pool.sample(make_task(1), 1, seed=1)
    assert len(source.made) == 3


async def test_a_pool_goes_on_with_those_who_are_left_and_fills_the_place_with_new_weights(
    caplog: pytest.LogCaptureFixture,
) -> None:
    is_broken = True

    async def before(actor: FakeActor, name: str, *_: Any) -> None:
        if name == "start" and len(source.made) > 2 and is_broken:
            actor.die()
            await asyncio.Future()

    caplog.set_level(logging.WARNING)
    source = FakeActors(before=before)
    async with started(source, num_actors=2) as pool:
        await pool.load_weights(PolicyVersion(1), [])
        pool._roster.members[0].handle.die()
        assert len(tasks_of(await sample_all(pool, 4))) == 8
        await until(lambda: not pool._roster._arriving, what="nobody tries any more")
        assert [member.name for member in pool._roster.members] == ["rollout-1"]
        assert "its place stays vacant until the next weights" in caplog.messages[-1]
        is_broken = False
        await pool.load_weights(PolicyVersion(2), [])
        await until(lambda: len(pool._roster.members) == 2, what="the place is filled")
        assert [member.version for member in pool._roster.members] == [2, 2]


async def test_who_leaves_frees_the_engine() -> None:
    async def never(*_: Any) -> None:
        await asyncio.Future()

    source = FakeActors(sampling=never)
    async with started(source) as pool:
        sampling = asyncio.create_task(pool.sample(make_task(), 2, seed=1))
        await until(lambda: "sample" in source.made[0].calls, what="it is asked")
        sampling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sampling
        assert source.num_cancelled == 1
        assert pool._roster.members[0].outstanding == 0
