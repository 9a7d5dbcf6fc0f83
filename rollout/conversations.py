"""Plays tasks of tau2-bench: an engine that serves, a model elsewhere that plays the user."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace

from cispo.config import SamplingConfig
from cispo.config.agent import AgentConfig
from cispo.errors import RolloutError
from cispo.seeding import stream_seed
from cispo.types import Rollout, Task
from rollout.agents import EngineTurns
from rollout.backends.base import SamplingParams
from rollout.conversation import open_conversation
from rollout.driver import EngineDriver
from rollout.episode import Budgets, TurnSampler, run_episode
from rollout.wording import ChatWording
from sandboxes.workspace import WorkspaceLostError


class Conversations:
    """Plays conversations, a few at a time."""

    def __init__(self, driver: EngineDriver, settings: AgentConfig) -> None:
        """Take the engine that speaks for the policy, and the budgets."""
        self._driver = driver
        self._settings = settings
        self._slots = asyncio.Semaphore(settings.max_concurrent)

    async def sample(
        self, task: Task, count: int, *, seed: int, sampling: SamplingConfig
    ) -> list[Rollout]:
        """Play `count` conversations of a task side by side.

        Raises:
            ConfigError: tau2 is not installed, or no model plays the user.
            RolloutError: The user's model does not answer.
        """
        policy = EngineTurns(self._driver, SamplingParams.of(sampling), task_id=task.task_id)
        episodes = (
            self._episode(task, policy, seed=stream_seed(seed, member), sampling=sampling)
            for member in range(count)
        )
        return list(await asyncio.gather(*episodes))

    async def _episode(
        self, task: Task, policy: TurnSampler, *, seed: int, sampling: SamplingConfig
    ) -> Rollout:
        truth: Mapping[str, object] = task.truth
        budgets = Budgets.of(self._settings, sampling)
        async with self._slots:
            conversation = open_conversation(
                str(truth["domain"]), str(truth["task_id"]), self._settings.user, seed=seed
            )
            try:
                opened = replace(task, messages=(*task.messages, *await conversation.opening()))
                wording = ChatWording(self._driver.tokenizer, tools=conversation.tools)
                return await run_episode(opened, policy, wording, conversation, budgets, seed=seed)
            except WorkspaceLostError as error:
                raise RolloutError(f"task {task.task_id}: {error}") from error
            finally:
                conversation.leave()
