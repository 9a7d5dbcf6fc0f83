"""What every way of the weights promises, from a learner through a pool to its engines."""

import asyncio
import dataclasses
import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cispo.errors import WeightSyncError
from cispo.types import PolicyVersion
from cispo.weights import collective
from cispo.weights.buckets import WeightBucket, exported_tensors, to_buckets
from cispo.weights.object_store import ObjectStore, StoredBucket
from cispo.weights.outlet import Route
from cispo.weights.shared_file import BucketFile, SharedFolder
from cispo.weights.sync import Broadcasts, Publisher
from rollout.backends.base import Request, SamplingParams
from rollout.driver import EngineDriver
from rollout.pool import RolloutPool
from tests.waiting import PATIENCE_SECONDS, until
from tests.weights.in_process import (
    BUCKET_BYTES,
    Actors,
    Handle,
    Learner,
    are_equal,
    as_they_are,
    make_model,
    start_pool,
    weights_of,
)

BRIEF_SECONDS = 3.0
"""What a broadcast waits for a member that never comes; others are waited for with patience."""


@dataclass
class Stage:
    learner: Learner
    actors: Actors
    pool: RolloutPool
    publisher: Publisher

    def has_newest(self, name: str) -> bool:
        [handle] = [handle for handle in self.actors.made if handle.name == name]
        return are_equal(weights_of(handle.backend.model), self.learner.sent[-1])


@asynccontextmanager
async def staged(
    way: Route | Broadcasts, *, num_actors: int = 2, before: Callable[..., Any] = as_they_are
) -> AsyncIterator[Stage]:
    learner, actors = Learner(), Actors(before)
    pool = await start_pool(actors, num_actors=num_actors)
    publisher = Publisher(learner, pool, way, bucket_bytes=BUCKET_BYTES)
    try:
        yield Stage(learner, actors, pool, publisher)
    finally:
        pool.stop()
        learner.close()


@pytest.fixture(params=["file", "collective", pytest.param("object_store", marks=pytest.mark.slow)])
def way(request: pytest.FixtureRequest, tmp_path: Path) -> Route | Broadcasts:
    match request.param:
        case "file":
            return SharedFolder(tmp_path)
        case "collective":
            return Broadcasts(backend="gloo", timeout_seconds=PATIENCE_SECONDS)
        case _:
            request.getfixturevalue("ray_session")
            return ObjectStore()


def briefly(way: Route | Broadcasts) -> Route | Broadcasts:
    """The way where some member does not come."""
    if isinstance(way, Broadcasts):
        return Broadcasts(backend="gloo", timeout_seconds=BRIEF_SECONDS)
    return way


async def test_every_version_arrives_to_the_bit_at_every_engine(way: Route | Broadcasts) -> None:
    async with staged(way) as stage:
        for version in (1, 2, 3):
            assert await stage.publisher.publish() == version
            assert all(stage.has_newest(handle.name) for handle in stage.actors.made)
            assert [m.version for m in stage.pool._roster.members] == [version, version]
        assert stage.learner.num_stored == 0
        size = sum(t.nbytes for t in stage.learner.sent[0].values())
        assert (await stage.publisher.lap())["engine/sync_bytes"] >= 3 * size


async def test_damage_on_the_way_is_an_error_that_names_the_bucket(
    way: Route | Broadcasts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(ticket: Any) -> Any:
        if isinstance(ticket, BucketFile):
            contents = bytearray(ticket.path.read_bytes())
            contents[5] ^= 1
            ticket.path.write_bytes(contents)
            return ticket
        bucket = ticket.fetch()
        buffer = bucket.buffer.copy()
        buffer[5] ^= 1
        return StoredBucket.put(dataclasses.replace(bucket, buffer=buffer))

    async def before(handle: Handle, method: str, *args: Any) -> tuple[Any, ...]:
        if method == "load_weights" and handle.name == "rollout-1":
            version, tickets = args
            return version, [*tickets[:1], spoil(tickets[1]), *tickets[2:]]
        return args

    read = collective._from_header

    def misread(*args: Any) -> Any:
        bucket = read(*args)
        bucket.buffer[5] ^= bucket.index == 1
        return bucket

    monkeypatch.setattr(collective, "_from_header", misread)
    async with staged(briefly(way), before=before) as stage:
        with pytest.raises(WeightSyncError, match=r"weight bucket 2 of \d \(.* has checksum"):
            await stage.publisher.publish()


async def test_an_engine_that_joins_late_gets_the_newest_that_was_published(
    way: Route | Broadcasts,
) -> None:
    async with staged(way, num_actors=1) as stage:
        await stage.publisher.publish()
        await stage.publisher.publish()
        stage.actors.made[0].die()
        await stage.pool.lap()
        await until(lambda: len(stage.pool._roster.members) == 1, what="another one joins")
        assert stage.pool._roster.members[0].version == 2
        assert stage.has_newest("rollout-1")
        assert await stage.publisher.publish() == 3
        assert stage.has_newest("rollout-1")


async def test_an_engine_that_dies_of_it_holds_nobody_up(
    way: Route | Broadcasts, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)

    async def before(handle: Handle, method: str, *args: Any) -> tuple[Any, ...]:
        if method.endswith("_weights") and args[0] == 2 and handle.name == "rollout-0":
            handle.die()
        return args

    async with staged(briefly(way), before=before) as stage:
        await stage.publisher.publish()
        assert await stage.publisher.publish() == 2
        assert stage.has_newest("rollout-1")
        await until(lambda: len(stage.pool._roster.members) == 2, what="another one joins")
        assert stage.has_newest("rollout-2")
        assert "rollout-0 died" in caplog.text
        if isinstance(way, Broadcasts):
            assert "policy version 2 goes through the object store" in caplog.text
            assert stage.learner.num_stored == 1
        assert await stage.publisher.publish() == 3
        assert stage.has_newest("rollout-1")
        assert stage.has_newest("rollout-2")
        assert stage.learner.num_stored <= 1  # the new group holds


async def test_an_engine_that_does_not_come_to_a_broadcast_is_waited_for_a_while_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)

    async def before(handle: Handle, method: str, *args: Any) -> tuple[Any, ...]:
        if method == "hear_weights" and handle.name == "rollout-0" and args[0] == 1:
            await until(has_given_up, what="the learner gave up")
        return args

    def has_given_up() -> bool:
        return stage.learner.outlet is not None and stage.learner.outlet.fault is not None

    way = Broadcasts(backend="gloo", timeout_seconds=0.5)
    async with staged(way, before=before) as stage:
        assert await stage.publisher.publish() == 1
        assert stage.has_newest("rollout-0")
        assert stage.has_newest("rollout-1")
        assert stage.learner.num_stored == 1
        for text in ("no group of 3 was formed", "rollout-0 missed the broadcast of weights"):
            assert text in caplog.text


async def test_an_engine_that_starts_during_an_export_waits_for_the_new_weights(
    way: Route | Broadcasts,
) -> None:
    async with staged(way) as stage:
        await stage.publisher.publish()
        stage.pool.expect_weights()
        stage.actors.made[0].die()
        await stage.pool.lap()
        await until(lambda: len(stage.actors.made) == 3, what="another one starts")
        assert [m.name for m in stage.pool._roster.members] == ["rollout-1"]
        assert await stage.publisher.publish() == 2
        await until(lambda: len(stage.pool._roster.members) == 2, what="it joins")
        assert stage.has_newest("rollout-2")


async def test_older_weights_are_refused() -> None:
    handle = Handle("rollout-0", as_they_are)
    await handle.actor.start()
    learner = Learner()
    handle.actor._version = PolicyVersion(3)
    with pytest.raises(WeightSyncError, match="rollout-0 was sent policy version 2 after 3"):
        await handle.actor.load_weights(PolicyVersion(2), [])
    learner.close()


@dataclass
class SlowTicket:
    """A bucket that comes only when it is let through."""

    bucket: WeightBucket
    may_come: threading.Event

    def fetch(self) -> WeightBucket:
        assert self.may_come.wait(PATIENCE_SECONDS), "the bucket was never let through"
        return self.bucket

    def discard(self) -> None: ...


def slow_tickets(seed: int) -> tuple[list[SlowTicket], threading.Event]:
    may_come = threading.Event()
    buckets = to_buckets(exported_tensors(make_model(seed)), max_bytes=BUCKET_BYTES)
    return [SlowTicket(bucket, may_come) for bucket in buckets], may_come


def endless(driver: EngineDriver) -> Request:
    """One sequence that keeps an engine busy."""
    return Request(
        request_id=driver.new_request_id(),
        task_id="task",
        prompt=(1,),
        seeds=(1,),
        sampling=SamplingParams(max_new_tokens=10**9),
    )


async def test_sequences_go_on_while_weights_come_and_wait_only_for_the_copy() -> None:
    handle = Handle("rollout-0", as_they_are)
    await handle.actor.start()
    driver = handle.actor._started()
    request = endless(driver)
    tickets, may_come = slow_tickets(5)
    before = weights_of(handle.backend.model)
    async with driver.open(request):
        loading = asyncio.create_task(handle.actor.load_weights(PolicyVersion(1), tickets))
        steps = handle.backend.statistics.decode_steps
        await until(
            lambda: handle.backend.statistics.decode_steps > steps + 50,
            what="steps while weights are on their way",
        )
        assert not loading.done()
        assert are_equal(weights_of(handle.backend.model), before)
        may_come.set()
        await loading
        statistics = (await driver.load()).statistics
    assert are_equal(weights_of(handle.backend.model), weights_of(make_model(5)))
    assert 0 < statistics.pause_seconds <= statistics.load_seconds


async def test_nothing_stood_still_where_nothing_ran() -> None:
    handle = Handle("rollout-0", as_they_are)
    await handle.actor.start()
    tickets, may_come = slow_tickets(5)
    may_come.set()
    await handle.actor.load_weights(PolicyVersion(1), tickets)
    statistics = await handle.actor.statistics()
    assert statistics.pause_seconds == 0.0 < statistics.load_seconds


async def test_damage_leaves_a_busy_engine_its_old_weights_whole() -> None:
    handle = Handle("rollout-0", as_they_are)
    await handle.actor.start()
    driver = handle.actor._started()
    request = endless(driver)
    tickets, may_come = slow_tickets(5)
    tickets[-1].bucket.buffer[0] ^= 1
    may_come.set()
    before = weights_of(handle.backend.model)
    async with driver.open(request):
        with pytest.raises(WeightSyncError, match="has checksum"):
            await handle.actor.load_weights(PolicyVersion(1), tickets)
    assert are_equal(weights_of(handle.backend.model), before)
