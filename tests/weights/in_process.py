"""A learner and a pool of engines in one process, around the real ends of the transports."""

import asyncio
import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from ray.exceptions import RayActorError
from torch import Tensor, nn

from cispo.config import SamplingConfig
from cispo.types import PolicyVersion
from cispo.weights.arrival import apply_buckets
from cispo.weights.buckets import WeightBucket, exported_tensors, to_buckets
from cispo.weights.collective import CollectiveOutlet, open_store
from cispo.weights.outlet import Outlet, Route, Ticket, WeightExport, export
from rollout.actor import RolloutActor
from rollout.backends.base import Request, StopRules
from rollout.backends.scripted import ScriptedBackend
from rollout.driver import Engine
from rollout.pool import RolloutPool
from rollout.roster import Roster

STOP = 2
BUCKET_BYTES = 400


def make_model(seed: int) -> nn.Module:
    """Weights of two dtypes that take several buckets."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(9, 7), nn.Linear(7, 30).bfloat16(), nn.Linear(30, 3))
    model.register_parameter("scale", nn.Parameter(torch.randn(())))
    return model


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def are_equal(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)


@dataclass(frozen=True)
class KeptBucket:
    """Stands for a bucket in an object store, which takes a copy."""

    bucket: WeightBucket

    def fetch(self) -> WeightBucket:
        return self.bucket

    def discard(self) -> None: ...


class Learner:
    """Exports as `LearnerActor` does, in a thread; its weights change with every export."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Tensor]] = []
        self.outlet: Outlet | None = None
        self.num_stored = 0
        self._route: Route | None = None
        self._store = open_store("127.0.0.1")

    async def export_weights(
        self, version: PolicyVersion, route: Route, *, max_bytes: int
    ) -> WeightExport:
        model = make_model(len(self.sent))
        self.sent.append(weights_of(model))
        if self.outlet is None or route != self._route:
            self.close()
            self.outlet, self._route = route.outlet(), route
        tensors = exported_tensors(model)
        buckets = to_buckets(tensors, max_bytes=max_bytes, allocate=self.outlet.allocate)
        made = await asyncio.to_thread(export, version, buckets, self.outlet)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()  # an optimizer step
        return made

    async def open_store(self) -> tuple[str, int]:
        return "127.0.0.1", self._store.port

    async def store_weights(self, version: PolicyVersion) -> Sequence[Ticket]:
        assert isinstance(self.outlet, CollectiveOutlet)
        assert self.outlet.version == version
        self.num_stored += 1
        return [KeptBucket(copy.deepcopy(bucket)) for bucket in self.outlet.kept]

    def close(self) -> None:
        if self.outlet is not None:
            self.outlet.close()


class ModelBackend:
    """Plays from a script, and has a model whose weights can be looked at."""

    def __init__(self) -> None:
        self.model = make_model(1000)
        self._script = ScriptedBackend(_long_answer, StopRules(token_ids=frozenset({STOP})))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._script, name)

    def load_weights(self, version: PolicyVersion, buckets: Any) -> str:
        return apply_buckets(self.model, buckets)


def _long_answer(request: Request, member: int) -> range:
    return range(STOP + 1, STOP + 1 + request.sampling.max_new_tokens)


class Handle:
    """An actor as its handle shows it; once it is dead its calls fail."""

    def __init__(self, name: str, before: Callable[..., Any]) -> None:
        self.name = name
        self.backend = ModelBackend()
        self.actor = RolloutActor(name, lambda: Engine(self.backend, None))
        self._before = before
        self._death = asyncio.Event()

    def __getattr__(self, method: str) -> Any:
        return _Remote(self, method)

    def die(self) -> None:
        self._death.set()
        self.actor._leave()  # as the end of a process closes its sockets

    async def call(self, method: str, *args: Any) -> Any:
        dying = asyncio.ensure_future(self._death.wait())
        work = asyncio.ensure_future(self._do(method, *args))
        await asyncio.wait({work, dying}, return_when=asyncio.FIRST_COMPLETED)
        dying.cancel()
        if self._death.is_set():
            work.cancel()
            raise RayActorError(error_msg="The actor is dead because it was told to.")
        return work.result()

    async def _do(self, method: str, *args: Any) -> Any:
        args = await self._before(self, method, *args)
        if self._death.is_set():
            await asyncio.Future()
        return await getattr(self.actor, method)(*args)


@dataclass(frozen=True)
class _Remote:
    handle: Handle
    method: str

    def remote(self, *args: Any) -> asyncio.Future[Any]:
        return asyncio.ensure_future(self.handle.call(self.method, *args))


async def as_they_are(_: Handle, __: str, *args: Any) -> tuple[Any, ...]:
    """Change nothing about a call."""
    return args


class Actors:
    """A `rollout.roster.Source` of them.

    Args:
        before: Awaited before each call, with the actor, the method and its arguments; returns the
            arguments.
    """

    def __init__(self, before: Callable[..., Any] = as_they_are) -> None:
        self.before = before
        self.made: list[Handle] = []

    def create(self, name: str) -> Handle:
        self.made.append(Handle(name, self.before))
        return self.made[-1]

    def kill(self, handle: Handle) -> None:
        handle.die()

    def cancel(self, call: asyncio.Future[Any]) -> None:
        call.cancel()

    def wants(self) -> str:
        return ""


async def start_pool(source: Actors, *, num_actors: int) -> RolloutPool:
    roster = Roster(
        source, num_actors=num_actors, max_attempts=3, startup_seconds=100.0, stall_seconds=0.0
    )
    await roster.start(None)
    return RolloutPool(roster, SamplingConfig(), max_attempts=3, max_sequences=8)
