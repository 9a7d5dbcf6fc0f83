"""Who answers in an evaluation: a model here, on Ray, behind an endpoint, or texts."""

import asyncio
import functools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

from cispo.config import SamplingConfig
from cispo.config.evaluate import EndpointConfig, EvaluateConfig
from cispo.errors import RolloutError
from cispo.evaluation.texts import (
    TextEngine,
    perfect_texts,
    text_rollout,
    texts_of_file,
    wrong_texts,
)
from cispo.ports import Progress, RolloutEngine
from cispo.seeding import stream_seed
from cispo.types import Rollout, StopReason, Task
from rewards.endpoint import ChatEndpoint, EndpointError


class Engines(Protocol):
    """Gives an engine for each set's sampling."""

    def with_sampling(self, sampling: SamplingConfig) -> RolloutEngine:
        """Return an engine that samples so."""


@asynccontextmanager
async def open_engines(cfg: EvaluateConfig, progress: Progress) -> AsyncIterator[Engines]:
    """Start what `engine` names, and end it after the block.

    Raises:
        CispoError: It does not start.
    """
    match cfg.engine:
        case "local":
            from rollout.engines import build_engine
            from rollout.local import LocalEngine

            make = functools.partial(build_engine, cfg.policy, cfg.rollout)
            yield await LocalEngine.start(make, cfg.rollout, cfg.sandbox)
        case "ray":
            from launch.cluster import ray_cluster
            from launch.nodes import wait_for_nodes
            from launch.shared_folders import anywhere
            from rollout.pool import RolloutPool

            needed = cfg.rollout.num_actors * cfg.rollout.num_cpus
            with ray_cluster(cfg.cluster, required_cpus=needed):
                wait_for_nodes(cfg.cluster, progress)
                pool = await RolloutPool.start(
                    anywhere(cfg.policy),
                    cfg.rollout,
                    startup_seconds=cfg.cluster.startup_seconds,
                    sandbox=cfg.sandbox,
                    progress=progress,
                )
                try:
                    yield pool
                finally:
                    pool.stop()
        case "endpoint":
            endpoint = _endpoint(cfg.endpoint)
            try:
                yield _Asked(endpoint, cfg.sampling)
            finally:
                await endpoint.close()
        case "answers":
            yield _Told(TextEngine(texts_of_file(Path(str(cfg.answers)))))
        case scripted:
            yield _Told(TextEngine(perfect_texts if scripted == "perfect" else wrong_texts))


class _Told:
    """Texts are the same however they are sampled."""

    def __init__(self, engine: TextEngine) -> None:
        self._engine = engine

    def with_sampling(self, sampling: SamplingConfig) -> RolloutEngine:
        return self._engine


class _Asked:
    """A model behind an endpoint, whose own tokenizer and template make the prompt."""

    def __init__(self, endpoint: ChatEndpoint, sampling: SamplingConfig) -> None:
        self._endpoint = endpoint
        self._sampling = sampling

    def with_sampling(self, sampling: SamplingConfig) -> RolloutEngine:
        return _Asked(self._endpoint, sampling)

    async def sample(self, task: Task, count: int, *, seed: int) -> Sequence[Rollout]:
        """Ask `count` times; see `cispo.ports.RolloutEngine`. An agent's tools cannot be used."""
        if task.is_agentic:
            raise RolloutError(f"task {task.task_id}: engine=endpoint plays no episodes with tools")
        asked = [self._ask(task, stream_seed(seed, member)) for member in range(count)]
        return await asyncio.gather(*asked)

    async def _ask(self, task: Task, seed: int) -> Rollout:
        messages = [{"role": m.role, "content": m.content} for m in task.messages]
        try:
            completion = await self._endpoint.complete(messages, _fields(self._sampling, seed))
        except EndpointError as error:
            raise RolloutError(
                f"endpoint: no answer to task {task.task_id} from {error}; see that the server at "
                "endpoint.url runs; the same command then asks only what is missing"
            ) from error
        return text_rollout(
            task,
            completion.text,
            num_tokens=completion.num_tokens,
            num_prompt_tokens=completion.num_prompt_tokens,
            stop_reason=StopReason.LENGTH if completion.is_truncated else StopReason.END_OF_TURN,
        )


def _fields(sampling: SamplingConfig, seed: int) -> dict[str, object]:
    """Write a request's fields; those beyond OpenAI's own are sent only where they are used."""
    fields: dict[str, object] = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_new_tokens,
        "seed": seed % 2**31,
    }
    if sampling.stop:
        fields["stop"] = list(sampling.stop)
    if sampling.top_k:
        fields["top_k"] = sampling.top_k
    if sampling.min_p:
        fields["min_p"] = sampling.min_p
    return fields


def _endpoint(cfg: EndpointConfig) -> ChatEndpoint:
    return ChatEndpoint(
        str(cfg.url),
        cfg.model,
        api_key_variable=cfg.api_key_variable,
        max_attempts=cfg.max_attempts,
        max_calls=0,
        max_concurrent=cfg.max_concurrent,
        deadline_seconds=cfg.deadline_seconds,
        key="endpoint",
    )
