"""The pool on a real Ray: balance, weights, and actors that die."""

import asyncio
import functools
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cispo.config import PolicyConfig, RolloutConfig, SamplingConfig
from cispo.errors import ConfigError, RolloutError, WeightSyncError
from cispo.policy.load import new_lightning_policy
from cispo.types import Message, PolicyVersion, Rollout, Task
from cispo.weights.buckets import WeightBucket, export_checksum, exported_tensors, to_buckets
from cispo.weights.object_store import StoredBucket
from rollout.engines import build_engine
from rollout.pool import RolloutPool
from tests.fakes import FakeProgress
from tests.rollout.held import Hold
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_session")]

ARCHITECTURE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "layer_types": ["linear_attention", "full_attention"],
    "rotary_dim": 8,
    "initializer_range": 0.1,
}
POLICY = PolicyConfig(architecture=ARCHITECTURE)
STARTUP_SECONDS = 200.0


def rollout_config(**knobs: Any) -> RolloutConfig:
    sampling = SamplingConfig(max_new_tokens=knobs.pop("max_new_tokens", 20))
    return RolloutConfig(sampling=sampling, max_sequences=32, **knobs)


def task(index: int) -> Task:
    message = Message(role="user", content=f"What is {index} plus {index}?")
    return Task(task_id=f"task-{index}", messages=(message,), verifier="math")


def buckets(seed: int) -> list[WeightBucket]:
    model = new_lightning_policy(ARCHITECTURE, "bpe1024", seed=seed)
    return list(to_buckets(exported_tensors(model), max_bytes=100_000))


def stored(these: Sequence[WeightBucket]) -> list[StoredBucket]:
    return [StoredBucket.put(bucket) for bucket in these]


def tokens(groups: Sequence[Sequence[Rollout]]) -> list[list[Sequence[int]]]:
    return [[rollout.token_ids for rollout in group] for group in groups]


async def process_of(member: Any) -> int:
    pid: int = await member.handle.__ray_call__.remote(lambda actor: os.getpid())
    return pid


async def start_held(
    hold: Hold, config: RolloutConfig, *, progress: FakeProgress | None = None
) -> RolloutPool:
    make = functools.partial(hold.make_engine, functools.partial(build_engine, POLICY, config))
    return await RolloutPool.start_engines(
        make, config, startup_seconds=STARTUP_SECONDS, progress=progress
    )


async def test_a_pool_samples_publishes_and_survives_the_death_of_an_actor(tmp_path: Path) -> None:
    progress = FakeProgress()
    config = rollout_config(num_actors=2, max_new_tokens=60)
    hold = Hold(tmp_path)
    pool = await start_held(hold, config, progress=progress)
    assert progress.events == ["start rollout actors 2", "finish rollout actors"]
    assert progress.done == {"rollout actors": 2}

    sent = buckets(3)
    checksum = export_checksum([bucket.checksum for bucket in sent])
    found = await pool.load_weights(PolicyVersion(1), stored(sent))
    assert found == {"rollout-0": checksum, "rollout-1": checksum}

    short = pool.with_sampling(SamplingConfig(max_new_tokens=5))
    brief = await asyncio.gather(*(short.sample(task(i), 3, seed=i) for i in range(4)))
    assert all(r.num_action_tokens <= 5 and r.newest_version == 1 for g in brief for r in g)
    again = await asyncio.gather(*(short.sample(task(i), 3, seed=i) for i in reversed(range(4))))
    assert tokens(brief) == tokens(again[::-1])

    calm = await asyncio.gather(*(pool.sample(task(i), 4, seed=i) for i in range(6)))
    first, second = pool._roster.members  # in the order in which they started
    pids = [await process_of(member) for member in (first, second)]
    hold.begin()
    stormy = [asyncio.create_task(pool.sample(task(i), 4, seed=i)) for i in range(6)]
    await until(lambda: all(hold.has_stopped(pid) for pid in pids), what="both are at work")
    loads = [member.outstanding for member in pool._roster.members]
    assert loads == [12, 12]
    os.kill(pids[0], signal.SIGKILL)
    await until(lambda: first not in pool._roster.members, what="the death is noticed")
    hold.end()
    survived = await asyncio.gather(*stormy)
    assert tokens(survived) == tokens(calm)
    for group, i in zip(survived, range(6), strict=True):
        assert [r.task_id for r in group] == [f"task-{i}"] * 4

    first_lap, second_lap = await pool.lap(), await pool.lap()
    assert first_lap["faults/engine_deaths"] == 1
    assert first_lap["faults/requests_retried"] == 3
    assert first_lap["engine/sampled_tokens"] > 0
    assert first_lap["time/engine_load_seconds"] > 0
    assert second_lap["faults/engine_deaths"] == second_lap["engine/sampled_tokens"] == 0
    await until(lambda: len(pool._roster.members) == 2, what="the replacement joins")
    found = await pool.load_weights(PolicyVersion(2), stored(buckets(4)))
    assert sorted(found) == [second.name, "rollout-2"]
    assert len(set(found.values())) == 1

    # A process that is stopped answers nothing, and cannot die of anything but SIGKILL.
    os.kill(pids[1], signal.SIGSTOP)
    stuck = [asyncio.create_task(pool.sample(task(i), 4, seed=i)) for i in range(2)]
    await until(lambda: second.outstanding == 4, what="the stopped actor has work")
    pool._roster._stall_seconds = 2.0
    await pool._roster._watch(second)
    assert second.loss == "hung: no answer for 2 s"
    assert [len(group) for group in await asyncio.gather(*stuck)] == [4, 4]
    assert (await pool.lap())["faults/engine_hangs"] == 1
    pool.stop()


async def test_failures_say_what_failed(tmp_path: Path) -> None:
    greedy = rollout_config(num_cpus=1000.0)
    with pytest.raises(RolloutError, match=r"rollout-0 was not ready after 1 s.*num_cpus=1000"):
        await RolloutPool.start(POLICY, greedy, startup_seconds=1)
    nowhere = PolicyConfig(path="/no/such/folder")
    with pytest.raises(ConfigError, match=r"policy\.path=/no/such/folder"):
        await RolloutPool.start(nowhere, rollout_config(), startup_seconds=STARTUP_SECONDS)

    config = rollout_config(max_attempts=1, max_new_tokens=60)
    hold = Hold(tmp_path)
    pool = await start_held(hold, config)
    damaged = buckets(1)
    damaged[0].buffer[0] ^= 1
    with pytest.raises(WeightSyncError, match="checksum"):
        await pool.load_weights(PolicyVersion(1), stored(damaged))
    victim = await process_of(pool._roster.members[0])
    hold.begin()
    sampling = asyncio.create_task(pool.sample(task(0), 4, seed=1))
    await until(lambda: hold.has_stopped(victim), what="it is at work")
    os.kill(victim, signal.SIGKILL)
    with pytest.raises(RolloutError, match=r"task-0.*max_attempts=1: rollout-0 died: its worker"):
        await sampling
    pool.stop()
