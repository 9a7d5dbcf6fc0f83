"""One engine in this process, for those who need neither Ray nor new weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cispo.config import RolloutConfig, SamplingConfig, SandboxConfig
from cispo.errors import RolloutError
from cispo.types import Rollout, Task
from rollout.actor import RolloutActor
from rollout.driver import Engine


class LocalEngine:
    """An engine with the weights that it was built with; see `cispo.ports.RolloutEngine`.

    Many tasks may be sampled at once; the engine decodes `max_sequences` of their rollouts
    together.
    """

    def __init__(self, actor: RolloutActor, sampling: SamplingConfig) -> None:
        """Take a started actor; see `start`."""
        self._actor = actor
        self._sampling = sampling

    @classmethod
    async def start(
        cls, make_engine: Callable[[], Engine], rollout: RolloutConfig, sandbox: SandboxConfig
    ) -> LocalEngine:
        """Build the engine.

        Raises:
            ConfigError: It cannot be built as configured.
        """
        actor = RolloutActor("engine", make_engine, rollout.agent, sandbox)
        await actor.start()
        return cls(actor, rollout.sampling)

    def with_sampling(self, sampling: SamplingConfig) -> LocalEngine:
        """Return the same engine with another sampling."""
        return LocalEngine(self._actor, sampling)

    async def sample(self, task: Task, count: int, *, seed: int) -> Sequence[Rollout]:
        """Sample.

        Raises:
            RolloutError: The request can never be served, for example for its length.
        """
        try:
            return await self._actor.sample(task, count, seed=seed, sampling=self._sampling)
        except ValueError as error:
            raise RolloutError(str(error)) from error
