"""Reward workers behind one verifier: the least loaded grades, the dead are replaced."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

import ray
from ray.exceptions import RayActorError, RayTaskError

from cispo.config import RewardConfig, SandboxConfig
from cispo.errors import CispoError, ConfigError
from cispo.types import Rollout, Task, Ungraded, Verdict
from rewards.build import check_reward
from rewards.worker import start_worker

_IN_FLIGHT = 8  # gradings that a worker holds at once; the others wait here
_GRACE_SECONDS = 60.0


@dataclass(eq=False, slots=True)
class _Worker:
    """One worker and how many gradings it holds."""

    name: str
    handle: Any
    num_held: int = 0
    is_dead: bool = False
    _slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_IN_FLIGHT))

    async def acquire(self) -> None:
        self.num_held += 1
        try:
            await self._slots.acquire()
        except BaseException:
            self.num_held -= 1
            raise

    def release(self) -> None:
        self.num_held -= 1
        self._slots.release()


class RewardPool:
    """A `Verifier` over Ray workers; a worker that dies costs no verdict."""

    def __init__(
        self,
        start: Callable[[], Any],
        *,
        max_attempts: int,
        limit_seconds: float,
        swe_limit_seconds: float | None = None,
    ) -> None:
        """Make an empty pool; use `RewardPool.start`.

        Args:
            start: Asks Ray for a worker.
            max_attempts: Workers on which a grading is tried.
            limit_seconds: Wall time of a grading after which its worker counts as hung.
            swe_limit_seconds: The same for patches, whose tests may run long.
        """
        self._start_one = start
        self._max_attempts = max_attempts
        self._limit_seconds = limit_seconds
        self._swe_limit_seconds = swe_limit_seconds or limit_seconds
        self._workers: list[_Worker] = []
        self._num_started = 0

    @classmethod
    async def start(
        cls,
        reward: RewardConfig,
        sandbox: SandboxConfig,
        *,
        max_new_tokens: int,
        startup_seconds: float,
    ) -> Self:
        """Start the workers and wait until each is warm and has proved its sandbox.

        Args:
            reward: Number of workers, verifiers, weights.
            sandbox: Limits of programs.
            max_new_tokens: Budget of a rollout, for the penalty for length.
            startup_seconds: Wall time to wait.

        Raises:
            ConfigError: A setting is wrong, a worker has no sandbox, or workers are not ready in
                time; the message names them.
        """
        check_reward(reward, max_new_tokens=max_new_tokens)

        def start_one() -> Any:
            return start_worker(
                reward, sandbox, max_new_tokens=max_new_tokens, max_concurrent=2 * _IN_FLIGHT
            )

        slowest = max(2 * reward.deadline_seconds, 2 * sandbox.wall_seconds)
        pool = cls(
            start_one,
            max_attempts=reward.max_attempts,
            limit_seconds=_IN_FLIGHT * slowest + _GRACE_SECONDS,
            swe_limit_seconds=_IN_FLIGHT * sandbox.swe.wall_seconds + _GRACE_SECONDS,
        )
        for _ in range(reward.num_workers):
            pool._add()
        try:
            await pool._wait_until_ready(startup_seconds)
        except BaseException:
            pool.close()
            raise
        return pool

    @property
    def worker_handles(self) -> tuple[Any, ...]:
        """The Ray actors that are thought to be alive."""
        return tuple(worker.handle for worker in self._workers)

    @property
    def num_replaced(self) -> int:
        """How many workers have been replaced."""
        return self._num_started - len(self._workers)

    async def grade(self, task: Task, rollout: Rollout) -> Verdict:
        """Judge one rollout; see `cispo.ports.Verifier`."""
        cause = ""
        is_patch = task.verifier == "swe"
        limit_seconds = self._swe_limit_seconds if is_patch else self._limit_seconds
        for _ in range(self._max_attempts):
            worker = await self._slot()
            try:
                verdict: Verdict = await asyncio.wait_for(
                    worker.handle.grade.remote(task, rollout), limit_seconds
                )
                return verdict
            except RayActorError as error:
                cause = f"{worker.name} died: {str(error).splitlines()[0]}"
                self._replace(worker)
            except TimeoutError:
                cause = f"{worker.name} gave no answer in {limit_seconds:.0f} s"
                self._replace(worker)
            except RayTaskError as error:
                cause = f"{worker.name} failed: {error.cause!r}"
            finally:
                worker.release()
        return Ungraded(cause=f"after {self._max_attempts} attempts: {cause}")

    async def _slot(self) -> _Worker:
        """Wait for the worker with the least to do; one that dies meanwhile is not waited for."""
        while True:
            worker = min(self._workers, key=lambda candidate: candidate.num_held)
            await worker.acquire()
            if not worker.is_dead:
                return worker
            worker.release()

    def close(self) -> None:
        """End all workers."""
        for worker in self._workers:
            ray.kill(worker.handle)
        self._workers.clear()

    def _add(self) -> None:
        self._workers.append(_Worker(f"reward worker {self._num_started}", self._start_one()))
        self._num_started += 1

    def _replace(self, worker: _Worker) -> None:
        """Start another in its place, once, however many gradings it takes down."""
        if worker.is_dead:
            return
        worker.is_dead = True
        self._workers.remove(worker)
        ray.kill(worker.handle)
        self._add()

    async def _wait_until_ready(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        starting = {worker.name: worker.handle.start.remote() for worker in self._workers}
        missing = []
        for name, ready in starting.items():
            try:
                await asyncio.wait_for(ready, max(deadline - time.monotonic(), 0.01))
            except TimeoutError:
                missing.append(name)
            except RayTaskError as error:
                if isinstance(error.cause, CispoError):
                    raise error.cause from error
                raise
        if missing:
            raise ConfigError(
                f"cluster.startup_seconds={seconds}: not ready in time: {', '.join(missing)}; "
                "raise it, or lower reward.num_workers or reward.num_cpus"
            )
