"""Plays the episodes of agentic tasks: an engine that speaks, a jailed repository that answers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from cispo.config import SamplingConfig, SandboxConfig
from cispo.config.agent import AgentConfig
from cispo.data.swe.instance import Instance
from cispo.errors import RolloutError
from cispo.seeding import stream_seed
from cispo.types import Rollout, Task
from rollout.backends.base import Request, SamplingParams
from rollout.driver import EngineDriver
from rollout.episode import Budgets, Turn, run_episode
from rollout.tools import RepositoryTools
from rollout.wording import ChatWording
from sandboxes.base import Limits
from sandboxes.build import build_workspaces
from sandboxes.swe.environment import Environments
from sandboxes.swe.paths import PACKAGES, python_path
from sandboxes.workspace import Workspace, WorkspaceLostError

_ATTEMPTS = 2
_OUTPUT_BYTES = 2**20


class EngineTurns:
    """An engine as `rollout.episode.TurnSampler`."""

    def __init__(self, driver: EngineDriver, sampling: SamplingParams, *, task_id: str) -> None:
        """Take the engine and how it samples."""
        self._driver = driver
        self._sampling = sampling
        self._task_id = task_id

    async def sample_turn(self, prompt: Sequence[int], *, seed: int, max_new_tokens: int) -> Turn:
        """Sample one turn after these tokens."""
        request = Request(
            request_id=self._driver.new_request_id(),
            task_id=self._task_id,
            prompt=tuple(prompt),
            seeds=(seed,),
            sampling=replace(self._sampling, max_new_tokens=max_new_tokens),
        )
        [finished] = await self._driver.sample(request)
        return Turn(
            token_ids=finished.token_ids,
            logprobs=finished.logprobs,
            is_sampled=finished.is_sampled,
            routed_experts=finished.routed_experts,
            stop_reason=finished.stop_reason,
            version_runs=finished.version_runs,
        )


class Agents:
    """Plays episodes, a few at a time."""

    def __init__(self, driver: EngineDriver, settings: AgentConfig, sandbox: SandboxConfig) -> None:
        """Find the sandbox.

        Args:
            driver: Speaks for the policy.
            settings: Budgets.
            sandbox: Where repositories lie; of its limits none hold here.

        Raises:
            SandboxUnavailableError: There is none on this machine.
        """
        self._driver = driver
        self._settings = settings
        self._workspaces = build_workspaces(sandbox)
        self._environments = Environments.at(sandbox.swe.cache, sandbox.swe.repositories)
        self._wording = ChatWording(driver.tokenizer)
        self._slots = asyncio.Semaphore(settings.max_concurrent)

    async def sample(
        self, task: Task, count: int, *, seed: int, sampling: SamplingConfig
    ) -> list[Rollout]:
        """Play `count` episodes of a task side by side.

        Raises:
            RolloutError: The task has no repository, or no jail could be kept for it.
        """
        try:
            instance = Instance.from_json(dict(task.truth)["instance"])  # type: ignore[arg-type]
        except (KeyError, TypeError, ValueError) as error:
            raise RolloutError(f"task {task.task_id}: no instance to act in ({error})") from error
        policy = EngineTurns(self._driver, SamplingParams.of(sampling), task_id=task.task_id)
        episodes = (
            self._episode(task, instance, policy, seed=stream_seed(seed, member), sampling=sampling)
            for member in range(count)
        )
        return list(await asyncio.gather(*episodes))

    async def _episode(
        self,
        task: Task,
        instance: Instance,
        policy: EngineTurns,
        *,
        seed: int,
        sampling: SamplingConfig,
    ) -> Rollout:
        environment = await self._environments.get(instance)
        workspace = Workspace(
            base=environment.repo,
            read_only={PACKAGES: environment.packages},
            environment={"PYTHONPATH": python_path(instance.setup.source_roots)},
            write_bytes=self._settings.write_bytes,
        )
        budgets = Budgets.of(self._settings, sampling)
        causes = []
        for _ in range(_ATTEMPTS):
            try:
                async with (
                    self._slots,
                    self._workspaces.open(workspace, self._limits) as session,
                ):
                    tools = RepositoryTools(
                        session,
                        environment,
                        self._limits,
                        max_characters=self._settings.max_result_characters,
                    )
                    return await run_episode(task, policy, self._wording, tools, budgets, seed=seed)
            except WorkspaceLostError as error:
                causes.append(str(error))
        raise RolloutError(f"task {task.task_id}: no workspace: {'; '.join(causes)}")

    @property
    def _limits(self) -> Limits:
        return Limits(
            cpu_seconds=self._settings.call_cpu_seconds,
            wall_seconds=self._settings.call_wall_seconds,
            memory_bytes=self._settings.memory_bytes,
            max_processes=self._settings.max_processes,
            output_bytes=_OUTPUT_BYTES,
            tmp_bytes=self._settings.write_bytes,
        )
