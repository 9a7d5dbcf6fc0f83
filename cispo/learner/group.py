"""All ranks of the learner as one: the `Learner` port over Ray actors."""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from cispo.arrivals import missing_after
from cispo.config import LearnerConfig, ObjectiveConfig, PolicyConfig
from cispo.counter_measures import NO_MEASURES, CounterMeasures
from cispo.errors import LearnerError
from cispo.learner.actor import start_rank
from cispo.learner.build import build_policy
from cispo.learner.environment import learner_environment
from cispo.learner.losses import hung, names_of, raise_worst
from cispo.learner.seats import Seats
from cispo.naming import naming
from cispo.overlap import WorkTimes
from cispo.policy.base import Policy
from cispo.ports import Progress
from cispo.stacks import Dump
from cispo.types import Metrics, PolicyVersion, Sample
from cispo.weights.object_store import ObjectStore
from cispo.weights.outlet import BUCKET_BYTES, Route, Ticket, WeightExport

_OBJECT_STORE = ObjectStore()
_PHASE = "start learner"
_PHASES = {"step": "learn", "logprobs": "learn", "save": "checkpoint", "export_weights": "publish"}
_GRACE_SECONDS = 30.0
"""After one rank failed the others have this long to say why, before the message is written."""


class LearnerGroup:
    """A `Learner` whose policy lives in Ray actors; build it with `LearnerGroup.start`.

    Args:
        ranks: Ray's handles of `LearnerActor`s that have started, by rank.
        work: Told when they take a step.
        progress: Told which ranks are waited for.
        step_seconds: Wall time that they have for one call; 0 is without end.
        dump: Dumps the stacks of all processes, for the message about ranks that hang.
    """

    def __init__(
        self,
        ranks: Sequence[Any],
        *,
        work: WorkTimes | None = None,
        progress: Progress | None = None,
        step_seconds: float = 0.0,
        dump: Callable[[], Dump] | None = None,
    ) -> None:
        self._ranks = ranks
        self._work = work or WorkTimes()
        self._progress = progress
        self._step_seconds = step_seconds
        self._dump = dump
        self._tickets: Sequence[Ticket] = ()

    @classmethod
    async def start(
        cls,
        policy: PolicyConfig,
        learner: LearnerConfig,
        objective: ObjectiveConfig,
        *,
        temperature: float,
        seed: int,
        startup_seconds: float = 180.0,
        progress: Progress | None = None,
        work: WorkTimes | None = None,
        dump: Callable[[], Dump] | None = None,
        seats: Seats | None = None,
    ) -> "LearnerGroup":
        """Start all ranks and wait until they have built the policy and met.

        Args:
            policy: The model.
            learner: Ranks, their resources and their optimizer.
            objective: The loss.
            temperature: The temperature at which the engine samples in training.
            seed: Seed of a new model's weights.
            startup_seconds: Wall time that the start may take.
            progress: Told which ranks are waited for.
            work: Told when they take a step.
            dump: Dumps the stacks of all processes, for the message about ranks that hang.
            seats: Where the ranks live; None leaves it to Ray.

        Raises:
            LearnerError: Ranks were not ready in time, or died; the message names them.
            ConfigError: The policy cannot be built as configured.
        """
        return await cls.start_with(
            partial(build_policy, policy, seed=seed),
            learner,
            objective,
            temperature=temperature,
            startup_seconds=startup_seconds,
            progress=progress,
            work=work,
            dump=dump,
            seats=seats,
            is_lean=policy.recompute_layers,
        )

    @classmethod
    async def start_with(
        cls,
        make_policy: Callable[[], Policy],
        learner: LearnerConfig,
        objective: ObjectiveConfig,
        *,
        temperature: float,
        startup_seconds: float = 180.0,
        progress: Progress | None = None,
        work: WorkTimes | None = None,
        dump: Callable[[], Dump] | None = None,
        seats: Seats | None = None,
        is_lean: bool = False,
    ) -> "LearnerGroup":
        """Start ranks around a policy of any make; see `start` and `learner_environment`."""
        deadline = time.monotonic() + startup_seconds
        environment = learner_environment(learner, is_lean=is_lean)
        group = cls(
            [start_rank(rank, learner, environment, seats) for rank in range(learner.num_ranks)],
            work=work,
            progress=progress,
            step_seconds=learner.step_seconds,
            dump=dump,
        )
        try:
            address = [group._ranks[0].address.remote()]
            (host, port), *_ = await group._ready(address, deadline, progress)
            starts = [
                rank.start.remote(
                    make_policy, learner, objective, temperature=temperature, host=host, port=port
                )
                for rank in group._ranks
            ]
            await group._ready(starts, deadline, progress)
        except BaseException:
            group.stop()
            raise
        return group

    async def step(
        self, samples: Sequence[Sample], measures: CounterMeasures = NO_MEASURES
    ) -> Metrics:
        """Take one optimizer step; see `cispo.ports.Learner`.

        Args:
            samples: All samples of the update.
            measures: What takes the place of the configured settings, in this update alone.

        Raises:
            DivergedError: A number is not finite; the weights are unchanged.
            LearnerLostError: Ranks died or hang; the message names them.
            LearnerError: A rank failed otherwise.
        """
        shared = ray.put(samples)  # once for all ranks; each takes its share
        with self._work.learner():
            steps = await self._on_all("step", shared, measures)
        metrics: Metrics = steps[0]
        return metrics

    async def logprobs(self, samples: Sequence[Sample]) -> Sequence[Sequence[float]]:
        """Score samples by the weights as they stand; see `cispo.anchor.Scorer`."""
        shared = ray.put(samples)
        found: dict[int, Sequence[float]] = {}
        for share in await self._on_all("logprobs", shared):
            found |= share
        return [found[index] for index in range(len(samples))]

    async def save(self, folder: Path) -> None:
        """Write weights, optimizer and schedule into a folder that all ranks can reach."""
        await self._on_all("save", _full_path(folder))

    async def restore(self, folder: Path) -> None:
        """Read what `save` wrote.

        Raises:
            CheckpointError: There is nothing, or it is another learner's.
        """
        await self._on_all("restore", _full_path(folder))

    async def export_weights(
        self,
        version: PolicyVersion,
        route: Route = _OBJECT_STORE,
        *,
        max_bytes: int = BUCKET_BYTES,
    ) -> WeightExport:
        """Export the weights; see `cispo.weights.sync.WeightSender`.

        Args:
            version: As this version.
            route: In this way.
            max_bytes: Of weights that are gathered at a time.
        """
        export: WeightExport = (await self._on_all("export_weights", version, route, max_bytes))[0]
        self._tickets = export.tickets
        return export

    async def open_store(self) -> tuple[str, int]:
        """Open where a group can meet; see `cispo.weights.sync.WeightSender`."""
        address: tuple[str, int] = (await self._on_all("open_store"))[0]
        return address

    async def store_weights(self, version: PolicyVersion) -> Sequence[Ticket]:
        """Store what was broadcast; see `cispo.weights.sync.WeightSender`."""
        tickets: Sequence[Ticket] = (await self._on_all("store_weights", version))[0]
        return tickets

    def stop(self) -> None:
        """Kill all ranks, and remove the weights that they left somewhere."""
        for rank in self._ranks:
            ray.kill(rank)
        for ticket in self._tickets:
            ticket.discard()

    async def _on_all(self, method: str, *arguments: Any) -> list[Any]:
        calls = [getattr(rank, method).remote(*arguments) for rank in self._ranks]
        waits = [asyncio.ensure_future(call) for call in calls]
        async with self._named(method, waits):
            done, late = await asyncio.wait(
                waits, return_when=asyncio.FIRST_EXCEPTION, timeout=self._step_seconds or None
            )
            if any(wait.exception() for wait in done):
                await asyncio.wait(waits, timeout=_GRACE_SECONDS)
                raise_worst(_errors(waits), len(waits), method)
        if late:
            for wait in late:
                wait.cancel()
            dump = await asyncio.to_thread(self._dump) if self._dump else None
            ranks = [rank for rank, wait in enumerate(waits) if wait in late]
            raise hung(ranks, len(waits), method, seconds=self._step_seconds, dump=dump)
        return [wait.result() for wait in waits]

    def _named(
        self, method: str, waits: Sequence[asyncio.Future[Any]]
    ) -> AbstractAsyncContextManager[None]:
        if self._progress is None:
            return nullcontext()
        began = time.monotonic()

        def describe() -> str:
            ranks = [rank for rank, wait in enumerate(waits) if not wait.done()]
            age = time.monotonic() - began
            return f"learner {names_of(ranks)} ({method} {age:.0f} s)" if ranks else ""

        return naming(self._progress, _PHASES.get(method, method), describe)

    async def _ready(
        self, calls: Sequence[Any], deadline: float, progress: Progress | None
    ) -> list[Any]:
        starting = {f"rank {rank}": asyncio.ensure_future(call) for rank, call in enumerate(calls)}
        waits = list(starting.values())
        try:
            missing = await missing_after(
                starting, phase=_PHASE, progress=progress, seconds=deadline - time.monotonic()
            )
        except RayError:
            await asyncio.wait(waits, timeout=1.0)
            raise_worst(_errors(waits), len(waits), "start")
        if missing:
            for wait in waits:
                wait.cancel()
            raise LearnerError(
                f"learner {', '.join(missing)} of {len(self._ranks)} not ready in time; "
                f"the cluster has {ray.available_resources().get('CPU', 0.0):g} CPUs and "
                f"{ray.available_resources().get('GPU', 0.0):g} GPUs free"
            )
        return [wait.result() for wait in waits]


def _full_path(folder: Path) -> Path:
    """The path for ranks, which may stand in another folder."""
    return folder.absolute()


def _errors(waits: Sequence[asyncio.Future[Any]]) -> dict[int, BaseException]:
    """What the ranks that have answered failed with, by rank."""
    return {
        rank: error
        for rank, wait in enumerate(waits)
        if wait.done() and (error := wait.exception()) is not None
    }
