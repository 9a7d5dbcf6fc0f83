"""The budget of a request is asked for when it is submitted; actors are fakes, without Ray."""

from typing import Any

from cispo.config import SamplingConfig
from cispo.types import Rollout, Task
from rollout.pool import RolloutPool
from rollout.roster import Roster
from tests.fakes import make_task
from tests.rollout.fake_actors import FakeActor, FakeActors

BUDGETS: list[tuple[str, int, float]] = []


class Recording(FakeActor):
    """Remembers how it was to sample what."""

    async def _sample(self, task: Task, count: int, *, seed: int, sampling: Any) -> list[Rollout]:
        BUDGETS.append((task.task_id, sampling.max_new_tokens, sampling.temperature))
        return await super()._sample(task, count, seed=seed, sampling=sampling)


class RecordingActors(FakeActors):
    def create(self, name: str) -> FakeActor:
        return Recording(name, self)


async def test_a_windowed_engine_asks_for_the_budget_with_each_request() -> None:
    BUDGETS.clear()
    roster = Roster(
        RecordingActors(), num_actors=1, max_attempts=1, startup_seconds=60.0, stall_seconds=0.0
    )
    sampling = SamplingConfig(max_new_tokens=96, temperature=0.7)
    pool = RolloutPool(roster, sampling, max_attempts=1, max_sequences=8)
    await roster.start(None)
    windows = [56, 72]
    engine = pool.with_budget(lambda: windows[0])
    try:
        await engine.sample(make_task(0), 2, seed=0)
        windows.pop(0)
        await engine.sample(make_task(1), 2, seed=1)
        await pool.sample(make_task(2), 2, seed=2)
        held_out = pool.with_sampling(SamplingConfig(max_new_tokens=48))
        await held_out.sample(make_task(3), 2, seed=3)
    finally:
        pool.stop()
    assert BUDGETS == [
        ("task-0", 56, 0.7),
        ("task-1", 72, 0.7),
        ("task-2", 96, 0.7),
        ("task-3", 48, 1.0),
    ]
