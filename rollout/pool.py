"""Spreads requests over rollout actors, and loses no rollout when one of them dies."""

from __future__ import annotations

import asyncio
import functools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import ray

from cispo.config import PolicyConfig, RolloutConfig, SamplingConfig, SandboxConfig
from cispo.errors import RolloutError
from cispo.ports import Progress, RolloutEngine
from cispo.types import Metrics, PolicyVersion, Rollout, Task
from rollout.backends.base import EngineStatistics
from rollout.driver import Engine
from rollout.engine_metrics import engine_metrics
from rollout.engines import build_engine
from rollout.roster import LOST, Roster

if TYPE_CHECKING:
    from cispo.weights.buckets import WeightBucket


class RolloutPool:
    """A `RolloutEngine` and its `EngineMeter` over Ray actors; build it with `RolloutPool.start`.

    A request goes whole to one actor, so that its prompt is computed once.

    Args:
        roster: Actors that have started.
        sampling: How `sample` samples.
        max_attempts: Actors on which a request is tried.
        max_sequences: Sequences that one actor decodes at once.
    """

    def __init__(
        self, roster: Roster, sampling: SamplingConfig, *, max_attempts: int, max_sequences: int
    ) -> None:
        self._roster = roster
        self._sampling = sampling
        self._max_attempts = max_attempts
        self._max_sequences = max_sequences
        self._num_retried = 0
        self._counted: dict[str, EngineStatistics] = {}
        self._mishaps: Counter[str] = Counter()

    @classmethod
    async def start(
        cls,
        policy: PolicyConfig,
        rollout: RolloutConfig,
        *,
        startup_seconds: float,
        sandbox: SandboxConfig | None = None,
        progress: Progress | None = None,
    ) -> RolloutPool:
        """Start all actors and wait until each has built its engine.

        Raises:
            RolloutError: Some were not ready in time; the message names them.
            ConfigError: The engine cannot be built as configured.
        """
        return await cls.start_engines(
            functools.partial(build_engine, policy, rollout),
            rollout,
            startup_seconds=startup_seconds,
            sandbox=sandbox,
            progress=progress,
        )

    @classmethod
    async def start_engines(
        cls,
        make_engine: Callable[[], Engine],
        rollout: RolloutConfig,
        *,
        startup_seconds: float,
        sandbox: SandboxConfig | None = None,
        progress: Progress | None = None,
    ) -> RolloutPool:
        """Start actors around engines of any make; see `start`."""
        roster = Roster(make_engine, rollout, startup_seconds=startup_seconds, sandbox=sandbox)
        try:
            await roster.start(progress)
        except BaseException:
            roster.stop()
            raise
        return cls(
            roster,
            rollout.sampling,
            max_attempts=rollout.max_attempts,
            max_sequences=rollout.max_sequences,
        )

    def with_sampling(self, sampling: SamplingConfig) -> RolloutEngine:
        """Return an engine over the same actors that samples otherwise, for evaluation."""
        return _Resampled(self, sampling)

    async def sample(self, task: Task, count: int, *, seed: int) -> Sequence[Rollout]:
        """Sample as configured; see `cispo.ports.RolloutEngine`."""
        return await self.sample_as(task, count, seed=seed, sampling=self._sampling)

    async def sample_as(
        self, task: Task, count: int, *, seed: int, sampling: SamplingConfig
    ) -> Sequence[Rollout]:
        """Sample on the least loaded actor, and on another one when that dies.

        Raises:
            RolloutError: `max_attempts` actors died of it, or none is left.
        """
        deaths: list[str] = []
        while len(deaths) < self._max_attempts:
            member = await self._roster.least_loaded()
            member.outstanding += count
            call = member.handle.sample.remote(task, count, seed=seed, sampling=sampling)
            try:
                rollouts: Sequence[Rollout] = await call
                return rollouts
            except LOST as error:
                deaths.append(f"{member.name} ({type(error).__name__})")
                self._num_retried += 1
                self._roster.replace(member)
            except asyncio.CancelledError:
                ray.cancel(call)
                raise
            finally:
                member.outstanding -= count
        raise RolloutError(
            f"no rollouts for task {task.task_id}: {', '.join(deaths)} died of it, and "
            f"rollout.max_attempts={self._max_attempts}"
        )

    async def load_weights(
        self, version: PolicyVersion, buckets: Sequence[WeightBucket | ray.ObjectRef]
    ) -> dict[str, str]:
        """Give every actor new weights; those that start later get them before they serve.

        Buckets should be references: the object store then holds one copy for a whole machine. They
        are kept until the next call.

        Returns:
            The checksum that each living actor reports, by its name.

        Raises:
            WeightSyncError: What arrived is not what was sent.
            RolloutError: No actor is left.
        """
        self._roster.announce(version, buckets)
        checksums: dict[str, str] = {}
        while not checksums:
            await self._roster.least_loaded()
            members = list(self._roster.members)
            results = await asyncio.gather(
                *(self._roster.load(member) for member in members), return_exceptions=True
            )
            for member, result in zip(members, results, strict=True):
                if isinstance(result, str):
                    checksums[member.name] = result
                elif isinstance(result, LOST):
                    self._roster.replace(member)
                else:
                    raise result
        return checksums

    async def lap(self) -> Metrics:
        """Return what the living actors did, and what went wrong, since the last lap."""
        members = list(self._roster.members)
        calls = [member.handle.statistics.remote() for member in members]
        results = await asyncio.gather(*calls, return_exceptions=True)
        now: dict[str, EngineStatistics] = {}
        for member, result in zip(members, results, strict=True):
            if isinstance(result, EngineStatistics):
                now[member.name] = result
            elif not isinstance(result, LOST):
                raise result
        described = engine_metrics(now, self._counted, max_sequences=self._max_sequences)
        self._counted = now
        mishaps = Counter(
            replaced_actors=self._roster.num_replaced,
            retried_requests=self._num_retried,
            failed_starts=len(self._roster.failures),
        )
        for name, count in mishaps.items():
            described[f"engine/{name}"] = float(count - self._mishaps[name])
        self._mishaps = mishaps
        return {**described, "engine/actors": float(len(now))}

    def stop(self) -> None:
        """Kill all actors."""
        self._roster.stop()


class _Resampled:
    """The pool with another sampling."""

    def __init__(self, pool: RolloutPool, sampling: SamplingConfig) -> None:
        self._pool = pool
        self._sampling = sampling

    async def sample(self, task: Task, count: int, *, seed: int) -> Sequence[Rollout]:
        """Sample; see `cispo.ports.RolloutEngine`."""
        return await self._pool.sample_as(task, count, seed=seed, sampling=self._sampling)
