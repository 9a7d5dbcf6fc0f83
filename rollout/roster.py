"""Keeps the rollout actors alive: starts them, names those that are missing, replaces the dead."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError

from cispo.arrivals import missing_after
from cispo.config import RolloutConfig, SandboxConfig
from cispo.errors import RolloutError
from cispo.ports import Progress
from cispo.types import PolicyVersion
from rollout.actor import RolloutActor
from rollout.driver import Engine

LOST = (RayActorError, NodeDiedError, OutOfMemoryError)
"""What a call raises when its actor is gone or out of reach."""

_PHASE = "rollout actors"
_MAX_REQUESTS = 4096
_ENVIRONMENT = {
    # One thread an actor: two threads on a busy machine cost 4 to 5 times more CPU time.
    "OMP_NUM_THREADS": "1",
    # A row of a matrix product then does not depend on how many rows there are.
    "MKL_CBWR": "AUTO,STRICT",
    "TOKENIZERS_PARALLELISM": "false",
}


@dataclass(slots=True, eq=False)
class Member:
    """A living actor.

    Attributes:
        name: For messages.
        handle: Ray's handle of a `RolloutActor`.
        outstanding: Rollouts that it was asked for and has not delivered.
        version: Weights that it has, None for those that it loaded from disk.
    """

    name: str
    handle: Any
    outstanding: int = 0
    version: PolicyVersion | None = None


class Roster:
    """The living actors of a pool; a new one joins only with the newest weights.

    Args:
        make_engine: Builds an engine inside an actor.
        rollout: Numbers of actors, their resources, and how often a start is tried.
        startup_seconds: Wall time that an actor may take to start.
        sandbox: Where agentic tasks act; None takes the defaults.
    """

    def __init__(
        self,
        make_engine: Callable[[], Engine],
        rollout: RolloutConfig,
        *,
        startup_seconds: float,
        sandbox: SandboxConfig | None = None,
    ) -> None:
        self._make_engine = make_engine
        self._rollout = rollout
        self._startup_seconds = startup_seconds
        self._sandbox = sandbox
        self._numbers = itertools.count()
        self._arriving: dict[asyncio.Task[None], str] = {}
        self._weights: tuple[PolicyVersion, Sequence[Any]] | None = None
        self.members: list[Member] = []
        self.failures: list[str] = []
        self.num_replaced = 0

    async def start(self, progress: Progress | None) -> None:
        """Start all actors and wait for them.

        Raises:
            RolloutError: Some could not start; the message names them.
            ConfigError: The engine cannot be built as configured.
        """
        for _ in range(self._rollout.num_actors):
            self._bring_up()
        starting = {name: arriving for arriving, name in self._arriving.items()}
        await missing_after(starting, phase=_PHASE, progress=progress)

    async def least_loaded(self) -> Member:
        """Return the actor with the fewest outstanding rollouts, waiting for one if need be.

        Raises:
            RolloutError: None is left and none is starting.
        """
        while not self.members:
            if not self._arriving:
                raise RolloutError(f"no rollout actor is left: {'; '.join(self.failures)}")
            await asyncio.wait(self._arriving, return_when=asyncio.FIRST_COMPLETED)
        return min(self.members, key=lambda member: member.outstanding)

    def replace(self, member: Member) -> None:
        """Start another actor in the place of a lost one."""
        if member not in self.members:
            return
        self.members.remove(member)
        # It may only be out of reach, and would then hold on to its resources.
        ray.kill(member.handle)
        self.num_replaced += 1
        self._bring_up()

    def announce(self, version: PolicyVersion, buckets: Sequence[Any]) -> None:
        """Remember the newest weights, for `load` and for those who join later."""
        self._weights = (version, buckets)

    async def load(self, member: Member) -> str:
        """Give one actor the newest weights and return its checksum of them."""
        assert self._weights is not None, "no weights were announced"
        version, buckets = self._weights
        checksum: str = await member.handle.load_weights.remote(version, list(buckets))
        member.version = version
        return checksum

    def stop(self) -> None:
        """Kill all actors."""
        for arriving in self._arriving:
            arriving.cancel()
        for member in self.members:
            ray.kill(member.handle)
        self.members.clear()

    def _bring_up(self) -> None:
        name = f"rollout-{next(self._numbers)}"
        arriving = asyncio.create_task(self._join(name), name=name)
        self._arriving[arriving] = name
        arriving.add_done_callback(self._arrived)

    def _arrived(self, arriving: asyncio.Task[None]) -> None:
        name = self._arriving.pop(arriving)
        if not arriving.cancelled() and (error := arriving.exception()) is not None:
            self.failures.append(f"{name}: {error}")

    async def _join(self, name: str) -> None:
        attempts = self._rollout.max_attempts
        for attempt in range(1, attempts + 1):
            try:
                self.members.append(await self._ready_member(name))
                return
            except LOST as error:
                self.failures.append(f"{name} died in start {attempt} of {attempts}: {error}")
        raise RolloutError(f"rollout actor {name} died in each of {attempts} starts")

    async def _ready_member(self, name: str) -> Member:
        member = Member(name, self._create(name))
        try:
            await asyncio.wait_for(member.handle.start.remote(), self._startup_seconds)
            while self._weights is not None and member.version != self._weights[0]:
                await self.load(member)
        except BaseException as error:
            ray.kill(member.handle)
            if isinstance(error, TimeoutError):
                raise RolloutError(self._not_ready(name)) from error
            raise
        return member

    def _create(self, name: str) -> Any:
        actor = ray.remote(RolloutActor).options(
            num_cpus=self._rollout.num_cpus,
            num_gpus=self._rollout.num_gpus,
            max_concurrency=_MAX_REQUESTS,
            runtime_env={"env_vars": _ENVIRONMENT},
        )
        return actor.remote(name, self._make_engine, self._rollout.agent, self._sandbox)

    def _not_ready(self, name: str) -> str:
        free = ray.available_resources()
        return (
            f"rollout actor {name} was not ready after {self._startup_seconds:g} s; it needs "
            f"rollout.num_cpus={self._rollout.num_cpus:g} and "
            f"rollout.num_gpus={self._rollout.num_gpus:g}, the cluster has "
            f"{free.get('CPU', 0.0):g} CPUs and {free.get('GPU', 0.0):g} GPUs free"
        )
