"""The Ray actor around a verifier; it decides nothing."""

import asyncio
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import ray

from cispo.config import RewardConfig, SandboxConfig
from cispo.stacks import offer_stacks
from cispo.types import Rollout, Task, Verdict
from rewards.build import BuiltVerifier, build_verifier, named_verifiers


class RewardWorker:
    """Grades in a process of its own, several rollouts at once."""

    def __init__(self, reward: RewardConfig, sandbox: SandboxConfig, max_new_tokens: int) -> None:
        """Remember what to build: an actor whose constructor raises dies without a typed error."""
        self._build = partial(build_verifier, reward, sandbox, max_new_tokens=max_new_tokens)
        self._verifier: BuiltVerifier | None = None

    async def start(self) -> None:
        """Warm up and prove the sandbox; see `BuiltVerifier.start`."""
        offer_stacks(f"reward worker {os.getpid()}")
        await self._built().start()

    async def grade(
        self, pairs: Sequence[tuple[Task, Rollout]]
    ) -> Sequence[Verdict | BaseException]:
        """Judge rollouts side by side; what one raises stands in its place and harms no other."""
        verifier = self._built()
        gradings = (verifier.grade(task, rollout) for task, rollout in pairs)
        return await asyncio.gather(*gradings, return_exceptions=True)

    def _built(self) -> BuiltVerifier:
        if self._verifier is None:
            self._verifier = self._build()
        return self._verifier


def start_worker(
    reward: RewardConfig, sandbox: SandboxConfig, *, max_new_tokens: int, max_concurrent: int
) -> Any:
    """Ask Ray for one worker and return its handle; it may not be there yet.

    Files of users' verifiers get their full path, for a worker may stand in another folder.
    """
    reward = replace(reward, verifiers=list(named_verifiers(reward.verifiers).values()))
    actor = ray.remote(RewardWorker).options(
        num_cpus=reward.num_cpus,
        max_concurrency=max_concurrent,
        max_restarts=0,
        scheduling_strategy="SPREAD",
    )
    return actor.remote(reward, sandbox, max_new_tokens)
