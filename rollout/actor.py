"""The Ray actor that keeps one engine busy and turns what it sampled into rollouts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import ray

from cispo.config import SamplingConfig, SandboxConfig
from cispo.config.agent import AgentConfig
from cispo.data.tau2 import VERIFIER as CONVERSATION
from cispo.errors import WeightSyncError, WeightTransferError
from cispo.policy.chat import decode, render_prompt
from cispo.seeding import stream_seed
from cispo.stacks import offer_stacks
from cispo.types import PolicyVersion, Rollout, StopReason, Task
from cispo.weights.arrival import Arrival
from cispo.weights.collective import Circle, Meeting, receiving
from rollout.agents import Agents
from rollout.backends.base import EngineStatistics, Finished, Request, SamplingParams
from rollout.conversations import Conversations
from rollout.driver import Engine, EngineDriver
from rollout.pulse import Pulse
from rollout.routes import joined_routes
from rollout.text import before_stop

if TYPE_CHECKING:
    from cispo.weights.buckets import WeightBucket
    from cispo.weights.outlet import Ticket

WATCH = "watch"
"""Ray's name of the thread in which `pulse` answers, however much the actor has to do."""


class RolloutActor:
    """Serves requests for rollouts, many at a time; weights change between two steps of the engine.

    Args:
        name: For messages.
        make_engine: Builds the engine, in this actor's process.
        agent: Budgets of agentic tasks.
        sandbox: Where they act.
    """

    def __init__(
        self,
        name: str,
        make_engine: Callable[[], Engine],
        agent: AgentConfig | None = None,
        sandbox: SandboxConfig | None = None,
    ) -> None:
        self._name = name
        self._make_engine = make_engine
        self._driver: EngineDriver | None = None
        self._agent = agent or AgentConfig()
        self._sandbox = sandbox or SandboxConfig()
        self._agents: Agents | None = None
        self._conversations: Conversations | None = None
        self._circle: Circle | None = None
        self._version = PolicyVersion(0)

    async def start(self) -> str:
        """Build the engine and return this actor's name.

        A method and not the constructor, because an error raised there reaches nobody as itself.
        """
        if self._driver is None:
            offer_stacks(self._name)
            self._driver = await EngineDriver.start(self._make_engine)
        return self._name

    async def sample(
        self, task: Task, count: int, *, seed: int, sampling: SamplingConfig
    ) -> list[Rollout]:
        """Sample `count` rollouts; see `cispo.ports.RolloutEngine`."""
        driver = self._started()
        if task.is_agentic and task.verifier == CONVERSATION:
            self._conversations = self._conversations or Conversations(driver, self._agent)
            return await self._conversations.sample(task, count, seed=seed, sampling=sampling)
        if task.is_agentic:
            self._agents = self._agents or Agents(driver, self._agent, self._sandbox)
            return await self._agents.sample(task, count, seed=seed, sampling=sampling)
        request = Request(
            request_id=driver.new_request_id(),
            task_id=task.task_id,
            prompt=tuple(render_prompt(driver.tokenizer, task.messages)),
            seeds=tuple(stream_seed(seed, member) for member in range(count)),
            sampling=SamplingParams.of(sampling),
        )
        finished = await driver.sample(request)
        return [_rollout(request, member, driver.tokenizer) for member in finished]

    async def load_weights(self, version: PolicyVersion, tickets: Sequence[Ticket]) -> str:
        """Fetch new weights and put them in the place of the old; returns their checksum.

        While sequences run, all is fetched and verified beside them, and they wait only for the
        copy. An idle engine takes bucket after bucket, without room for all of them.

        Raises:
            WeightSyncError: What arrived is not what was sent.
        """
        is_busy = self._started().is_busy
        return await self._take(version, (t.fetch() for t in tickets), holds_first=is_busy)

    async def hear_weights(self, version: PolicyVersion, meeting: Meeting, rank: int) -> str:
        """Receive new weights by broadcast, otherwise as `load_weights` does.

        Raises:
            WeightTransferError: The broadcast broke off; they can be had by `load_weights`.
            WeightSyncError: What arrived is not what was sent.
        """
        is_busy = self._started().is_busy
        try:
            if self._circle is None or self._circle.meeting != meeting:
                self._leave()
                self._circle = await asyncio.to_thread(Circle, meeting, rank)
            with receiving(self._circle, reuses_memory=not is_busy) as buckets:
                return await self._take(version, buckets, holds_first=is_busy)
        except WeightTransferError:
            self._leave()
            raise

    async def statistics(self) -> EngineStatistics:
        """What the engine has done since it started."""
        return (await self._started().load()).statistics

    @ray.method(concurrency_group=WATCH)  # type: ignore[untyped-decorator]
    async def pulse(self) -> Pulse:
        """Whether the engine has work and moves; answered from a thread of its own."""
        return self._started().pulse()

    async def _take(
        self, version: PolicyVersion, buckets: Iterable[WeightBucket], *, holds_first: bool
    ) -> str:
        if version < self._version:
            raise WeightSyncError(
                f"{self._name} was sent policy version {version} after {self._version}"
            )
        arrival = Arrival(buckets)
        if holds_first:
            await asyncio.to_thread(arrival.hold)
        checksum = await self._started().load_weights(version, arrival)
        self._version = version
        return checksum

    def _leave(self) -> None:
        if self._circle is not None:
            self._circle.close()
            self._circle = None

    def _started(self) -> EngineDriver:
        assert self._driver is not None, f"{self._name} was not started"
        return self._driver


def _rollout(request: Request, member: Finished, tokenizer: Any) -> Rollout:
    ended = member.stop_reason is StopReason.END_OF_TURN
    answer = decode(tokenizer, member.token_ids[:-1] if ended else member.token_ids)
    num_prompt = len(request.prompt)
    return Rollout(
        task_id=request.task_id,
        token_ids=(*request.prompt, *member.token_ids),
        action_mask=(False,) * num_prompt + tuple(member.is_sampled),
        routed_experts=joined_routes(
            [(num_prompt, None), (len(member.token_ids), member.routed_experts)]
        ),
        behaviour_logprobs=(0.0,) * num_prompt + tuple(member.logprobs),
        text=before_stop(answer, request.sampling.stop),
        stop_reason=member.stop_reason,
        oldest_version=member.oldest_version,
        newest_version=member.newest_version,
        version_runs=member.version_runs,
        token_budget=request.sampling.max_new_tokens,
    )
