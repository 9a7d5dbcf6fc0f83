"""Starts the learner, rollout actors and reward workers of a run side by side."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from cispo.config import RunConfig
from cispo.learner.group import LearnerGroup
from cispo.learner.seats import reserve_seats
from cispo.overlap import WorkTimes
from cispo.ports import Progress
from cispo.stacks import Dump
from launch.shared_folders import anywhere
from rewards.pool import RewardPool
from rollout.pool import RolloutPool

T = TypeVar("T")


async def start_actors(
    cfg: RunConfig,
    stack: AsyncExitStack,
    *,
    work: WorkTimes,
    progress: Progress,
    dump: Callable[[], Dump],
) -> tuple[LearnerGroup, RolloutPool, RewardPool]:
    """Start all, and let the stack stop them; a part also where another one fails to start.

    Args:
        cfg: The whole configuration.
        stack: Stops what has started.
        work: Told when engines and learner are busy.
        progress: Shows who is waited for.
        dump: Dumps the stacks of all processes.

    Raises:
        ExceptionGroup: Of the errors of those that did not start.
    """
    seconds = cfg.cluster.startup_seconds
    policy = anywhere(cfg.policy)
    seats = await reserve_seats(cfg.learner, seconds=seconds, progress=progress)
    stack.callback(seats.free)
    learner = LearnerGroup.start(
        policy,
        cfg.learner,
        cfg.objective,
        temperature=cfg.rollout.sampling.temperature,
        seed=cfg.seed,
        startup_seconds=seconds,
        progress=progress,
        work=work,
        dump=dump,
        seats=seats,
    )
    engine = RolloutPool.start(
        policy,
        cfg.rollout,
        startup_seconds=seconds,
        sandbox=cfg.sandbox,
        progress=progress,
        work=work,
    )
    workers = RewardPool.start(
        cfg.reward,
        cfg.sandbox,
        max_new_tokens=cfg.rollout.sampling.max_new_tokens,
        startup_seconds=seconds,
        progress=progress,
    )
    async with asyncio.TaskGroup() as starting:
        started = (
            starting.create_task(_started(learner, LearnerGroup.stop, stack)),
            starting.create_task(_started(engine, RolloutPool.stop, stack)),
            starting.create_task(_started(workers, RewardPool.close, stack)),
        )
    return started[0].result(), started[1].result(), started[2].result()


async def _started(
    start: Coroutine[Any, Any, T], stop: Callable[[T], None], stack: AsyncExitStack
) -> T:
    part = await start
    stack.callback(stop, part)
    return part
