"""How much is under way when a part of the run is slow: bounded, whichever part it is."""

import asyncio
from collections.abc import Sequence

import pytest

from cispo.stream import OrderedStream
from cispo.types import Rollout, Task, Verdict
from tests.fakes import FakeEngine, FakeProgress, FakeTasks, FakeVerifier, FakeWeights
from tests.waiting import until

TASKS, MEMBERS = 4, 3


class Judges(FakeVerifier):
    """Judges wait until they may go on; counts the rollouts that wait for them."""

    def __init__(self) -> None:
        super().__init__()
        self.may_judge = asyncio.Event()
        self.num_waiting = 0
        self.most_waiting = 0

    async def grade(self, task: Task, rollout: Rollout) -> Verdict:
        self.num_waiting += 1
        self.most_waiting = max(self.most_waiting, self.num_waiting)
        try:
            await self.may_judge.wait()
            return await super().grade(task, rollout)
        finally:
            self.num_waiting -= 1


class Engine(FakeEngine):
    """Counts what it holds at most."""

    most_active = 0

    async def sample(self, task: Task, count: int, *, seed: int) -> Sequence[Rollout]:
        self.most_active = max(self.most_active, self.num_active + 1)
        return await super().sample(task, count, seed=seed)


def make_stream(engine: FakeEngine, judges: FakeVerifier, max_staleness: int) -> OrderedStream:
    return OrderedStream(
        FakeTasks(),
        engine,
        judges,
        tasks_per_iteration=TASKS,
        group_size=MEMBERS,
        max_staleness=max_staleness,
        dynamic_sampling=True,
        max_consecutive_drops=8,
        max_ungraded_fraction=0.5,
        seed=1,
        progress=FakeProgress(),
    )


async def settled() -> None:
    """Let everything go on that can: nothing in these tests takes time."""
    for _ in range(100):
        await asyncio.sleep(0)


@pytest.mark.parametrize("max_staleness", [0, 1, 3])
async def test_slow_judges_stop_the_engines(max_staleness: int) -> None:
    engine, judges = FakeEngine(), Judges()
    allowed = TASKS * (1 + max_staleness)
    async with make_stream(engine, judges, max_staleness) as stream:
        taking = asyncio.create_task(stream.take())
        await until(lambda: judges.num_waiting == allowed * MEMBERS, what="all wait for verdicts")
        await settled()
        assert (len(engine.started), engine.num_active) == (allowed, 0)
        judges.may_judge.set()
        assert len(await taking) == TASKS
        await settled()
        assert len(engine.started) == allowed  # until weights are published
    assert judges.most_waiting == allowed * MEMBERS


@pytest.mark.parametrize("max_staleness", [0, 1, 3])
async def test_a_slow_learner_stops_the_engines(max_staleness: int) -> None:
    weights = FakeWeights(version=1)
    engine = Engine(weights)
    async with make_stream(engine, FakeVerifier(), max_staleness) as stream:
        for iteration in range(1, 6):
            await stream.take()
            await settled()  # the learner takes its time
            assert engine.num_active == 0
            assert len(engine.started) == TASKS * (iteration + max_staleness)
            await weights.publish()
            stream.release()
    assert engine.most_active <= TASKS * (1 + max_staleness)


async def test_groups_without_signal_do_not_let_more_be_under_way() -> None:
    engine = Engine(latency=lambda task: 0.001 * (int(task.removeprefix("task-")) % 3))
    judges = FakeVerifier(
        lambda task, member: float(member % 2 and int(task.removeprefix("task-")) % 2)
    )
    async with make_stream(engine, judges, 1) as stream:
        for _ in range(3):
            assert len(await stream.take()) == TASKS
            stream.release()
    assert engine.most_active <= TASKS * 2
