"""The stream, the pool and the publisher together, while engines die and hang at random."""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cispo.config import SamplingConfig
from cispo.stream import OrderedStream
from cispo.types import Group, PolicyVersion, Task
from cispo.weights.outlet import Outlet, Route, Ticket, WeightExport
from cispo.weights.sync import Publisher
from rollout.pool import RolloutPool
from rollout.roster import Roster
from tests.fakes import FakeProgress, FakeTasks, FakeVerifier
from tests.rollout.fake_actors import FakeActor, FakeActors

TASKS, MEMBERS = 3, 2
MAX_ATTEMPTS = 20
STALL_SECONDS = 0.02


class NoRoute:
    """The fakes need no way for their weights."""

    def outlet(self) -> Outlet:
        raise NotImplementedError


class Sender:
    """A learner that has weights."""

    async def export_weights(
        self, version: PolicyVersion, route: Route, *, max_bytes: int
    ) -> WeightExport:
        return WeightExport(
            version=version, tickets=[], checksum="checksum", num_bytes=0, seconds=0.0
        )

    async def open_store(self) -> tuple[str, int]:
        raise NotImplementedError

    async def store_weights(self, version: PolicyVersion) -> Sequence[Ticket]:
        raise NotImplementedError


class Storm:
    """Delays everything at random, and loses a number of actors at random moments.

    Args:
        seed: Of all its choices.
        num_faults: Actors that are lost at most, so that no task is blamed.
        chance: Of a loss at each moment at which one may happen.
    """

    def __init__(self, seed: int, num_faults: int, *, chance: float = 0.15) -> None:
        self._draw = random.Random(seed)
        self._num_faults = num_faults
        self._chance = chance
        self.kinds: Counter[str] = Counter()
        self.source = FakeActors(before=self.before, sampling=self.sampling)

    async def before(self, actor: FakeActor, method: str, *_: Any) -> None:
        await self._pass(actor, self._draw.randrange(4))
        if method not in ("sample", "pulse"):
            await self._strike(actor, method, hangs=False)

    async def sampling(self, actor: FakeActor, _: Task) -> None:
        await self._pass(actor, self._draw.choice([0, 2, 5, 60]))
        await self._strike(actor, "sample", hangs=True)
        await self._pass(actor, self._draw.choice([0, 2, 20]))

    async def _pass(self, actor: FakeActor, num_steps: int) -> None:
        for _ in range(num_steps):
            actor.num_moves += 1
            await asyncio.sleep(0)

    async def _strike(self, actor: FakeActor, method: str, *, hangs: bool) -> None:
        if self._num_faults == 0 or self._draw.random() > self._chance:
            return
        self._num_faults -= 1
        if hangs and self._draw.random() < 0.5:
            self.kinds["hang"] += 1
            actor.is_stopped = True
        else:
            self.kinds[f"death in {method}"] += 1
            actor.die()
        await asyncio.Future()


async def train(
    storm: Storm, *, num_actors: int, max_staleness: int, iterations: int
) -> tuple[list[Group], list[int], RolloutPool]:
    """The loop without learning: the groups in the order of delivery, each rollout's staleness."""
    roster = Roster(
        storm.source,
        num_actors=num_actors,
        max_attempts=MAX_ATTEMPTS,
        startup_seconds=60.0,
        stall_seconds=STALL_SECONDS,
    )
    pool = RolloutPool(roster, SamplingConfig(), max_attempts=MAX_ATTEMPTS, max_sequences=8)
    weights = Publisher(Sender(), pool, NoRoute())
    stream = OrderedStream(
        FakeTasks(),
        pool,
        FakeVerifier(),
        tasks_per_iteration=TASKS,
        group_size=MEMBERS,
        max_staleness=max_staleness,
        dynamic_sampling=True,
        max_consecutive_drops=8,
        max_ungraded_fraction=0.0,
        seed=1,
        progress=FakeProgress(),
        iterations=iterations,
    )
    groups: list[Group] = []
    staleness: list[int] = []
    try:
        await roster.start(None)
        version = await weights.publish()
        async with stream:
            for _ in range(iterations):
                taken = await stream.take()
                groups += taken
                rollouts = [rollout for group in taken for rollout in group.rollouts]
                staleness += [version - rollout.oldest_version for rollout in rollouts]
                assert all(rollout.newest_version <= version for rollout in rollouts)
                await pool.lap()
                version = await weights.publish()
                stream.release()
    finally:
        pool.stop()
    return groups, staleness, pool


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    num_actors=st.integers(1, 3),
    num_faults=st.integers(0, 6),
    max_staleness=st.integers(0, 3),
)
def test_whatever_is_lost_every_task_is_delivered_once_in_order_and_never_too_stale(
    seed: int, num_actors: int, num_faults: int, max_staleness: int
) -> None:
    storm = Storm(seed, num_faults)
    groups, staleness, pool = asyncio.run(
        train(storm, num_actors=num_actors, max_staleness=max_staleness, iterations=5)
    )
    assert [group.index for group in groups] == list(range(5 * TASKS))
    for group in groups:
        assert [r.task_id for r in group.rollouts] == [group.task.task_id] * MEMBERS
        assert [r.text for r in group.rollouts] == [str(member) for member in range(MEMBERS)]
    assert max(staleness) <= max_staleness
    assert pool._roster.faults.total() <= storm.kinds.total()  # the last may go unseen


@pytest.mark.parametrize("max_staleness", [0, 2])
def test_a_calm_run_and_a_storm_deliver_the_same_rollouts(max_staleness: int) -> None:
    def tokens(num_faults: int) -> list[Any]:
        storm = Storm(3, num_faults, chance=0.5)
        groups, _, _ = asyncio.run(
            train(storm, num_actors=2, max_staleness=max_staleness, iterations=5)
        )
        assert storm.kinds.total() == num_faults
        return [[rollout.token_ids for rollout in group.rollouts] for group in groups]

    assert tokens(5) == tokens(0)
