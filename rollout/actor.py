"""The Ray actor that keeps one engine busy and turns what it sampled into rollouts."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray

from cispo.config import SamplingConfig
from cispo.policy.chat import decode, render_prompt
from cispo.seeding import stream_seed
from cispo.types import PolicyVersion, Rollout, StopReason, Task
from rollout.backends.base import Backend, EngineStatistics, Finished, Request, SamplingParams

if TYPE_CHECKING:
    from cispo.weights.buckets import WeightBucket


@dataclass(frozen=True, slots=True)
class Engine:
    """A backend with the tokenizer that goes with it."""

    backend: Backend
    tokenizer: Any


@dataclass(slots=True)
class _Collecting:
    """A request whose members come in one by one."""

    done: asyncio.Future[list[Finished]]
    finished: list[Finished]
    count: int


class RolloutActor:
    """Serves requests for rollouts, many at a time; weights change between two steps of the engine.

    Args:
        name: For messages.
        make_engine: Builds the engine, in this actor's process.
    """

    def __init__(self, name: str, make_engine: Callable[[], Engine]) -> None:
        self._name = name
        self._make_engine = make_engine
        self._engine: Engine | None = None
        self._collecting: dict[int, _Collecting] = {}
        self._request_ids = itertools.count()
        self._stepping: asyncio.Task[None] | None = None

    async def start(self) -> str:
        """Build the engine and return this actor's name.

        A method and not the constructor, because an error raised there reaches nobody as itself.
        """
        if self._engine is None:
            self._engine = self._make_engine()
        return self._name

    async def sample(
        self, task: Task, count: int, *, seed: int, sampling: SamplingConfig
    ) -> list[Rollout]:
        """Sample `count` rollouts; see `cispo.ports.RolloutEngine`."""
        engine = self._started()
        request = Request(
            request_id=next(self._request_ids),
            task_id=task.task_id,
            prompt=tuple(render_prompt(engine.tokenizer, task.messages)),
            seeds=tuple(stream_seed(seed, member) for member in range(count)),
            sampling=SamplingParams.of(sampling),
        )
        collecting = _Collecting(asyncio.get_running_loop().create_future(), [], count)
        engine.backend.start(request)
        self._collecting[request.request_id] = collecting
        if self._stepping is None or self._stepping.done():
            self._stepping = asyncio.create_task(self._step_while_active())
        try:
            finished = await collecting.done
        finally:
            if self._collecting.pop(request.request_id, None) is not None:
                engine.backend.abort(request.request_id)
        finished.sort(key=lambda member: member.member)
        return [_rollout(request, member, engine.tokenizer) for member in finished]

    async def load_weights(
        self, version: PolicyVersion, buckets: Sequence[WeightBucket | ray.ObjectRef]
    ) -> str:
        """Fetch all buckets, then replace the weights at once; returns their checksum.

        Raises:
            WeightSyncError: What arrived is not what was sent.
        """
        engine = self._started()
        arrived = [await b if isinstance(b, ray.ObjectRef) else b for b in buckets]
        return engine.backend.load_weights(version, arrived)

    async def statistics(self) -> EngineStatistics:
        """What the engine has done since it started."""
        return self._started().backend.statistics

    def _started(self) -> Engine:
        assert self._engine is not None, f"{self._name} was not started"
        return self._engine

    async def _step_while_active(self) -> None:
        backend = self._started().backend
        while backend.num_active:
            try:
                finished = backend.step()
            except Exception as error:  # whatever broke, those who wait must hear of it
                self._fail_all(error)
                return
            for member in finished:
                self._collect(member)
            await asyncio.sleep(0)

    def _collect(self, member: Finished) -> None:
        collecting = self._collecting[member.request_id]
        collecting.finished.append(member)
        if len(collecting.finished) == collecting.count:
            del self._collecting[member.request_id]
            if not collecting.done.done():
                collecting.done.set_result(collecting.finished)

    def _fail_all(self, error: Exception) -> None:
        backend = self._started().backend
        for request_id, collecting in self._collecting.items():
            backend.abort(request_id)
            if not collecting.done.done():
                collecting.done.set_exception(error)
        self._collecting.clear()


def _rollout(request: Request, member: Finished, tokenizer: Any) -> Rollout:
    ended = member.stop_reason is StopReason.END_OF_TURN
    answer = list(member.token_ids[:-1] if ended else member.token_ids)
    num_prompt, num_sampled = len(request.prompt), len(member.token_ids)
    return Rollout(
        task_id=request.task_id,
        token_ids=(*request.prompt, *member.token_ids),
        action_mask=(False,) * num_prompt + (True,) * num_sampled,
        behaviour_logprobs=(0.0,) * num_prompt + tuple(member.logprobs),
        text=decode(tokenizer, answer),
        stop_reason=member.stop_reason,
        oldest_version=member.oldest_version,
        newest_version=member.newest_version,
    )
