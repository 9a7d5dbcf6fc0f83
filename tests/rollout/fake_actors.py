"""Rollout actors without Ray: they sample, die, hang and start badly on demand."""

import asyncio
import itertools
from collections.abc import Callable, Sequence
from typing import Any

from ray.exceptions import RayActorError

from cispo.types import PolicyVersion, Rollout, Task
from rollout.backends.base import EngineStatistics
from rollout.pulse import Pulse
from tests.fakes import make_rollout

DEATH = """The actor died unexpectedly before finishing this task.
\tclass_name: RolloutActor
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR. \
Some common causes include: (1) many."""
"""As Ray puts it."""


class Remote:
    """A method of a handle: called as `handle.method.remote(...)`."""

    def __init__(self, actor: "FakeActor", name: str) -> None:
        self._actor, self._name = actor, name

    def remote(self, *args: Any, **kwargs: Any) -> asyncio.Future[Any]:
        return asyncio.ensure_future(self._actor.call(self._name, *args, **kwargs))


class FakeActor:
    """Behaves like `RolloutActor` behind a handle of Ray's; its calls fail once it is dead.

    Attributes:
        name: As the roster calls it.
        version: Weights that it has.
        calls: Names of the methods that were called.
        is_dead: Whether it is gone.
        is_stopped: Whether it answers nothing, as after SIGSTOP.
        num_moves: Steps of its engine.
    """

    def __init__(self, name: str, world: "FakeActors") -> None:
        self.name = name
        self.version = PolicyVersion(0)
        self.calls: list[str] = []
        self.is_dead = False
        self.is_stopped = False
        self.num_moves = 0
        self._world = world
        self._num_requests = 0
        self._death = asyncio.Event()

    def __getattr__(self, name: str) -> Remote:
        return Remote(self, name)

    def die(self) -> None:
        self.is_dead = True
        self._death.set()

    async def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Do what the method does, unless the actor dies before or in the midst of it."""
        self.calls.append(name)
        work = asyncio.ensure_future(self._do(name, *args, **kwargs))
        dying = asyncio.ensure_future(self._death.wait())
        try:
            await asyncio.wait({work, dying}, return_when=asyncio.FIRST_COMPLETED)
            if self.is_dead:
                raise RayActorError(error_msg=DEATH)
            return work.result()
        finally:
            work.cancel()
            dying.cancel()

    async def _do(self, name: str, *args: Any, **kwargs: Any) -> Any:
        if self.is_stopped:
            await asyncio.Future()
        await self._world.before(self, name, *args)
        match name:
            case "start":
                return self.name
            case "load_weights" | "hear_weights":
                self.version = args[0]
                return "checksum"
            case "statistics":
                return EngineStatistics(sampled_tokens=1)
            case "pulse":
                return Pulse(self._num_requests, self.num_moves)
            case _:
                return await self._sample(*args, **kwargs)

    async def _sample(self, task: Task, count: int, *, seed: int, sampling: Any) -> list[Rollout]:
        oldest = self.version
        self._num_requests += 1
        try:
            await self._world.sampling(self, task)
        finally:
            self._num_requests -= 1
        return [
            make_rollout(
                task.task_id,
                num_action_tokens=1 + (seed + member) % 5,
                oldest_version=oldest,
                newest_version=self.version,
                text=str(member),
            )
            for member in range(count)
        ]


async def _nothing(*_: Any) -> None:
    await asyncio.sleep(0)


class FakeActors:
    """A source of such actors; implements `rollout.roster.Source`.

    Args:
        before: Awaited in an actor before each call: the actor, the method and its arguments.
        sampling: Awaited in an actor while it samples a task.
    """

    def __init__(
        self,
        *,
        before: Callable[..., Any] = _nothing,
        sampling: Callable[[FakeActor, Task], Any] = _nothing,
    ) -> None:
        self.before = before
        self.sampling = sampling
        self.made: list[FakeActor] = []
        self.killed: list[str] = []
        self.num_cancelled = 0
        self._serial = itertools.count()

    def create(self, name: str) -> FakeActor:
        self.made.append(FakeActor(name, self))
        return self.made[-1]

    def kill(self, handle: FakeActor) -> None:
        self.killed.append(handle.name)
        handle.die()

    def cancel(self, call: asyncio.Future[Any]) -> None:
        self.num_cancelled += 1
        call.cancel()

    def wants(self) -> str:
        return "it needs two hands"

    @property
    def names(self) -> Sequence[str]:
        return [actor.name for actor in self.made]
