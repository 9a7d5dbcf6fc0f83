"""The Ray actor around a verifier; it decides nothing."""

from typing import Any

import ray

from cispo.config import RewardConfig, SandboxConfig
from cispo.types import Rollout, Task, Verdict
from rewards.build import build_verifier


class RewardWorker:
    """Grades in a process of its own, several rollouts at once."""

    def __init__(self, reward: RewardConfig, sandbox: SandboxConfig, max_new_tokens: int) -> None:
        """Build the verifier; see `rewards.build.build_verifier`."""
        self._verifier = build_verifier(reward, sandbox, max_new_tokens=max_new_tokens)

    async def start(self) -> None:
        """Warm up and prove the sandbox; see `BuiltVerifier.start`."""
        await self._verifier.start()

    async def grade(self, task: Task, rollout: Rollout) -> Verdict:
        """Judge one rollout."""
        return await self._verifier.grade(task, rollout)


def start_worker(
    reward: RewardConfig, sandbox: SandboxConfig, *, max_new_tokens: int, max_concurrent: int
) -> Any:
    """Ask Ray for one worker and return its handle; it may not be there yet."""
    actor = ray.remote(RewardWorker).options(
        num_cpus=reward.num_cpus, max_concurrency=max_concurrent, max_restarts=0
    )
    return actor.remote(reward, sandbox, max_new_tokens)
