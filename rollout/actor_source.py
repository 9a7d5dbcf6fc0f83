"""Asks Ray for rollout actors, and ends them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ray

from cispo.config import RolloutConfig, SandboxConfig
from rollout.actor import WATCH, RolloutActor
from rollout.driver import Engine

_MAX_REQUESTS = 4096
_ENVIRONMENT = {
    # One thread an actor: two threads on a busy machine cost 4 to 5 times more CPU time.
    "OMP_NUM_THREADS": "1",
    # A row of a matrix product then does not depend on how many rows there are.
    "MKL_CBWR": "AUTO,STRICT",
    "TOKENIZERS_PARALLELISM": "false",
}


class ActorSource:
    """Where a roster gets its actors from.

    Args:
        make_engine: Builds an engine inside an actor.
        rollout: The resources of an actor, and budgets of episodes.
        sandbox: Where agentic tasks act; None takes the defaults.
    """

    def __init__(
        self,
        make_engine: Callable[[], Engine],
        rollout: RolloutConfig,
        sandbox: SandboxConfig | None = None,
    ) -> None:
        self._make_engine = make_engine
        self._rollout = rollout
        self._sandbox = sandbox

    def create(self, name: str) -> Any:
        """Ask for an actor and return its handle; it may not be there yet."""
        actor = ray.remote(concurrency_groups={WATCH: 1})(RolloutActor).options(
            num_cpus=self._rollout.num_cpus,
            num_gpus=self._rollout.num_gpus,
            max_concurrency=_MAX_REQUESTS,
            scheduling_strategy="SPREAD",
            runtime_env={"env_vars": _ENVIRONMENT},
        )
        return actor.remote(name, self._make_engine, self._rollout.agent, self._sandbox)

    def kill(self, handle: Any) -> None:
        """End an actor, also one that is stopped or out of reach; its calls fail at once."""
        ray.kill(handle)

    def cancel(self, call: Any) -> None:
        """Tell an actor that nobody waits for a call any more."""
        ray.cancel(call)

    def wants(self) -> str:
        """Say what an actor needs and what there is, for messages."""
        free = ray.available_resources()
        return (
            f"it needs rollout.num_cpus={self._rollout.num_cpus:g} and "
            f"rollout.num_gpus={self._rollout.num_gpus:g}, the cluster has "
            f"{free.get('CPU', 0.0):g} CPUs and {free.get('GPU', 0.0):g} GPUs free"
        )
