"""Spreads requests over rollout actors, and loses no rollout when one of them dies."""

from __future__ import annotations

import asyncio
import functools
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

from cispo.config import PolicyConfig, RolloutConfig, SamplingConfig, SandboxConfig
from cispo.errors import RolloutError
from cispo.lost_actors import is_lost
from cispo.overlap import WorkTimes
from cispo.ports import Progress, RolloutEngine
from cispo.types import Metrics, PolicyVersion, Rollout, Task
from rollout.actor_source import ActorSource
from rollout.backends.base import EngineStatistics
from rollout.driver import Engine
from rollout.engine_metrics import engine_metrics
from rollout.engines import build_engine
from rollout.roster import Member, Roster
from rollout.weight_loading import hear_weights, load_weights

if TYPE_CHECKING:
    from cispo.weights.collective import Meeting
    from cispo.weights.outlet import Ticket
    from cispo.weights.sync import Fetch

_FAULTS = ("engine_deaths", "engine_hangs", "engine_failed_starts", "requests_retried")


class RolloutPool:
    """A `RolloutEngine` and its `Meter` over Ray actors; build it with `RolloutPool.start`.

    A request goes whole to one actor, so that its prompt is computed once.

    Args:
        roster: Actors that have started.
        sampling: How `sample` samples.
        max_attempts: Actors on which a request is tried.
        max_sequences: Sequences that one actor decodes at once.
        work: Told when actors have requests under way.
    """

    def __init__(
        self,
        roster: Roster,
        sampling: SamplingConfig,
        *,
        max_attempts: int,
        max_sequences: int,
        work: WorkTimes | None = None,
    ) -> None:
        self._roster = roster
        self._sampling = sampling
        self._max_attempts = max_attempts
        self._max_sequences = max_sequences
        self._work = work or WorkTimes()
        self._num_retried = 0
        self._counted: dict[str, EngineStatistics] = {}
        self._faults: Counter[str] = Counter()
        self._last_attempt = asyncio.Lock()

    @classmethod
    async def start(
        cls,
        policy: PolicyConfig,
        rollout: RolloutConfig,
        *,
        startup_seconds: float,
        sandbox: SandboxConfig | None = None,
        progress: Progress | None = None,
        work: WorkTimes | None = None,
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
            work=work,
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
        work: WorkTimes | None = None,
    ) -> RolloutPool:
        """Start actors around engines of any make; see `start`."""
        roster = Roster(
            ActorSource(make_engine, rollout, sandbox),
            num_actors=rollout.num_actors,
            max_attempts=rollout.max_attempts,
            startup_seconds=startup_seconds,
            stall_seconds=rollout.stall_seconds,
        )
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
            work=work,
        )

    def with_sampling(self, sampling: SamplingConfig) -> RolloutEngine:
        """Return an engine over the same actors that samples otherwise, for evaluation."""
        return _Resampled(self, lambda: sampling)

    def with_budget(self, max_new_tokens: Callable[[], int]) -> RolloutEngine:
        """Return an engine over the same actors that asks for each request how long it may get."""
        return _Resampled(self, lambda: replace(self._sampling, max_new_tokens=max_new_tokens()))

    async def sample(self, task: Task, count: int, *, seed: int) -> Sequence[Rollout]:
        """Sample as configured; see `cispo.ports.RolloutEngine`."""
        return await self.sample_as(task, count, seed=seed, sampling=self._sampling)

    async def sample_as(
        self, task: Task, count: int, *, seed: int, sampling: SamplingConfig
    ) -> Sequence[Rollout]:
        """Sample on the least loaded actor, and on another one when that is lost.

        All requests of a lost actor are suspects. A task in its last attempt is therefore alone in
        that: the one that is named in the end was there each time, and the last time without
        another suspect that had been.

        Raises:
            RolloutError: `max_attempts` actors were lost with it, or none is left.
        """
        losses: list[str] = []
        while len(losses) < self._max_attempts:
            is_last = 0 < len(losses) == self._max_attempts - 1
            async with self._last_attempt if is_last else nullcontext():
                member = await self._roster.least_loaded()
                rollouts = await self._sample_on(member, task, count, seed, sampling)
            if not isinstance(rollouts, str):
                return rollouts
            losses.append(rollouts)
            self._num_retried += len(losses) < self._max_attempts
        raise RolloutError(
            f"no rollouts for task {task.task_id}: all actors that sampled it were lost, and "
            f"rollout.max_attempts={self._max_attempts}: {'; '.join(losses)}"
        )

    async def _sample_on(
        self, member: Member, task: Task, count: int, seed: int, sampling: SamplingConfig
    ) -> Sequence[Rollout] | str:
        """Return the rollouts, or how the actor was lost."""
        call = member.handle.sample.remote(task, count, seed=seed, sampling=sampling)
        member.outstanding += count
        try:
            with self._work.engine(member.name):
                rollouts: Sequence[Rollout] = await call
        except asyncio.CancelledError:
            self._roster.cancel(call)
            raise
        except Exception as error:
            if not is_lost(error):
                raise
            return self._roster.lose(member, error)
        finally:
            member.outstanding -= count
        member.num_lost_before = 0
        return rollouts

    def expect_weights(self) -> Sequence[str]:
        """Let those that start wait for the weights to come; see `WeightReceiver`."""
        self._roster.withdraw()
        return [member.name for member in self._roster.members]

    async def load_weights(
        self, version: PolicyVersion, tickets: Sequence[Ticket]
    ) -> dict[str, str]:
        """Let every actor fetch new weights; see `cispo.weights.sync.WeightReceiver`.

        Raises:
            WeightSyncError: What arrived is not what was sent.
            RolloutError: No actor is left.
        """
        return await load_weights(self._roster, version, tickets)

    async def hear_weights(
        self, version: PolicyVersion, meeting: Meeting, names: Sequence[str], fetch: Fetch
    ) -> dict[str, str]:
        """Let actors receive a broadcast; see `cispo.weights.sync.WeightReceiver`.

        Raises:
            WeightSyncError: What arrived is not what was sent.
            RolloutError: No actor is left.
        """
        return await hear_weights(self._roster, version, meeting, names, fetch)

    async def lap(self) -> Metrics:
        """Return what the living actors did, and what went wrong, since the last lap."""
        members = list(self._roster.members)
        calls = [member.handle.statistics.remote() for member in members]
        results = await asyncio.gather(*calls, return_exceptions=True)
        now: dict[str, EngineStatistics] = {}
        for member, result in zip(members, results, strict=True):
            if isinstance(result, EngineStatistics):
                now[member.name] = result
            elif is_lost(result):
                self._roster.lose(member, result)
            else:
                raise result
        described = engine_metrics(now, self._counted, max_sequences=self._max_sequences)
        self._counted = now
        faults = self._roster.faults + Counter(requests_retried=self._num_retried)
        for kind in _FAULTS:
            described[f"faults/{kind}"] = float(faults[kind] - self._faults[kind])
        self._faults = faults
        return {**described, "engine/actors": float(len(now))}

    def stop(self) -> None:
        """Kill all actors."""
        self._roster.stop()


class _Resampled:
    """The pool with another sampling, which is asked for with each request."""

    def __init__(self, pool: RolloutPool, sampling: Callable[[], SamplingConfig]) -> None:
        self._pool = pool
        self._sampling = sampling

    async def sample(self, task: Task, count: int, *, seed: int) -> Sequence[Rollout]:
        """Sample; see `cispo.ports.RolloutEngine`."""
        return await self._pool.sample_as(task, count, seed=seed, sampling=self._sampling())
