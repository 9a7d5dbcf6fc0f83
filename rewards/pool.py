"""Reward workers behind one verifier: the least loaded grades, the dead are replaced."""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import ray
from ray.exceptions import RayTaskError

from cispo.arrivals import missing_after
from cispo.config import RewardConfig, SandboxConfig
from cispo.errors import CispoError, ConfigError
from cispo.lost_actors import cause_of, is_lost
from cispo.ports import Progress
from cispo.types import Metrics, Rollout, Task, Ungraded, Verdict
from rewards.build import check_reward
from rewards.handing_out import MOST_A_CALL, Asked, next_call
from rewards.worker import start_worker

_PHASE = "reward workers"
_ENOUGH = 8  # gradings with which a worker is busy; the others wait here
_MOST_HELD = _ENOUGH + MOST_A_CALL - 1
_GRACE_SECONDS = 60.0
_FAULTS = ("reward_worker_deaths", "reward_worker_hangs", "gradings_retried")
_log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class _Worker:
    """One worker and how many gradings it holds."""

    name: str
    handle: Any
    num_held: int = 0


class RewardPool:
    """A `Verifier` over Ray workers; a worker that dies costs no verdict."""

    def __init__(
        self,
        start: Callable[[], Any],
        *,
        max_attempts: int,
        limit_seconds: float,
        swe_limit_seconds: float | None = None,
        kill: Callable[[Any], None] = ray.kill,
    ) -> None:
        """Make an empty pool; use `RewardPool.start`.

        Args:
            start: Asks Ray for a worker.
            max_attempts: Workers on which a grading is tried.
            limit_seconds: Wall time of a grading after which its worker counts as hung.
            swe_limit_seconds: The same for patches, whose tests may run long.
            kill: Ends a worker.
        """
        self._start_one = start
        self._kill = kill
        self._max_attempts = max_attempts
        self._limit_seconds = limit_seconds
        self._swe_limit_seconds = swe_limit_seconds or limit_seconds
        self._workers: list[_Worker] = []
        self._num_started = 0
        self._faults: Counter[str] = Counter()
        self._waiting: deque[Asked] = deque()
        self._calls: set[asyncio.Task[None]] = set()

    @classmethod
    async def start(
        cls,
        reward: RewardConfig,
        sandbox: SandboxConfig,
        *,
        max_new_tokens: int,
        startup_seconds: float,
        progress: Progress | None = None,
    ) -> Self:
        """Start the workers and wait until each is warm and has proved its sandbox.

        Args:
            reward: Number of workers, verifiers, weights.
            sandbox: Limits of programs.
            max_new_tokens: Budget of a rollout, for the penalty for length.
            startup_seconds: Wall time to wait.
            progress: Told which workers are waited for.

        Raises:
            ConfigError: A setting is wrong, a worker has no sandbox, workers are not ready in time,
                or one died in each of its starts; the message names them.
        """
        check_reward(reward, max_new_tokens=max_new_tokens)

        def start_one() -> Any:
            return start_worker(
                reward, sandbox, max_new_tokens=max_new_tokens, max_concurrent=_MOST_HELD
            )

        slowest = max(2 * reward.deadline_seconds, 2 * sandbox.wall_seconds)
        pool = cls(
            start_one,
            max_attempts=reward.max_attempts,
            limit_seconds=_MOST_HELD * slowest + _GRACE_SECONDS,
            swe_limit_seconds=_MOST_HELD * sandbox.swe.wall_seconds + _GRACE_SECONDS,
        )
        for _ in range(reward.num_workers):
            pool._add()
        try:
            await pool.wait_until_ready(startup_seconds, progress)
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
        loop = asyncio.get_running_loop()
        asked = Asked(task=task, rollout=rollout, verdict=loop.create_future())
        self._waiting.append(asked)
        loop.call_soon(self._hand_out)  # with those that are asked for at the same time
        return await asked.verdict

    async def lap(self) -> Metrics:
        """Return what went wrong since the last lap."""
        faults, self._faults = self._faults, Counter()
        return {f"faults/{kind}": float(faults[kind]) for kind in _FAULTS}

    def close(self) -> None:
        """End all workers."""
        for asked in self._waiting:
            asked.verdict.cancel()
        for call in self._calls:
            call.cancel()
        for worker in self._workers:
            self._kill(worker.handle)
        self._workers.clear()

    def _hand_out(self) -> None:
        """Give workers that have little to do the gradings that have waited longest."""
        while self._waiting and self._workers:
            worker = min(self._workers, key=lambda candidate: candidate.num_held)
            if worker.num_held >= _ENOUGH:
                return
            gradings = next_call(self._waiting, num_workers=len(self._workers))
            if gradings:
                worker.num_held += len(gradings)
                call = asyncio.create_task(self._call(worker, gradings))
                self._calls.add(call)
                call.add_done_callback(self._calls.discard)

    async def _call(self, worker: _Worker, gradings: Sequence[Asked]) -> None:
        """Let a worker grade, and tell those who wait, or let another one try."""
        try:
            for asked, answer in zip(gradings, await self._answers(worker, gradings), strict=True):
                self._settle(asked, answer)
        except BaseException as error:  # whatever it is, those who wait must hear of it
            for asked in gradings:
                if not asked.verdict.done():
                    asked.verdict.set_exception(error)
            if not isinstance(error, Exception):
                raise
        finally:
            worker.num_held -= len(gradings)
            self._hand_out()

    async def _answers(
        self, worker: _Worker, gradings: Sequence[Asked]
    ) -> Sequence[Verdict | BaseException | str]:
        """Return a verdict, or why there is none, for each."""
        is_patch = gradings[0].task.verifier == "swe"
        limit_seconds = self._swe_limit_seconds if is_patch else self._limit_seconds
        pairs = [(asked.task, asked.rollout) for asked in gradings]
        try:
            async with asyncio.timeout(limit_seconds):
                answers: list[Verdict | BaseException] = await worker.handle.grade.remote(pairs)
            return answers
        except RayTaskError as error:  # which is a TimeoutError too, where that is its cause
            failure = f"{worker.name} failed: {error.cause!r}"
        except TimeoutError:
            failure = f"{worker.name} gave no answer in {limit_seconds:g} s"
            self._replace(worker, "reward_worker_hangs", failure)
        except Exception as error:
            if not is_lost(error):
                raise
            failure = f"{worker.name} died: {cause_of(error)}"
            self._replace(worker, "reward_worker_deaths", failure)
        return [failure] * len(gradings)

    def _settle(self, asked: Asked, answer: Verdict | BaseException | str) -> None:
        if asked.verdict.done():
            return
        if not isinstance(answer, BaseException | str):
            asked.verdict.set_result(answer)
            return
        asked.failures.append(answer if isinstance(answer, str) else repr(answer))
        if len(asked.failures) < self._max_attempts:
            self._faults["gradings_retried"] += 1
            self._waiting.appendleft(asked)
        else:
            cause = f"after {self._max_attempts} attempts: {asked.failures[-1]}"
            asked.verdict.set_result(Ungraded(cause=cause))

    def _add(self) -> _Worker:
        worker = _Worker(f"reward worker {self._num_started}", self._start_one())
        self._workers.append(worker)
        self._num_started += 1
        return worker

    def _replace(self, worker: _Worker, fault: str, failure: str) -> None:
        """Start another in its place, once, however many calls it takes down."""
        if worker not in self._workers:
            return
        self._lose(worker, fault, f"{failure}; another worker starts in its place")
        self._add()

    def _lose(self, worker: _Worker, fault: str, failure: str) -> None:
        self._faults[fault] += 1
        _log.warning("%s", failure)
        self._workers.remove(worker)
        self._kill(worker.handle)

    async def _bring_up(self, worker: _Worker) -> None:
        """Wait until a worker has started, or one that takes the place of those that died."""
        for attempt in range(1, self._max_attempts + 1):
            try:
                await worker.handle.start.remote()
                return
            except Exception as error:
                if not is_lost(error):
                    raise
                which = f"start {attempt} of {self._max_attempts}"
                failure = f"{worker.name} died in {which}: {cause_of(error)}"
            self._lose(worker, "reward_worker_deaths", failure)
            if attempt < self._max_attempts:
                worker = self._add()
        raise ConfigError(f"{failure}; see `ray logs`, and reward.max_attempts")

    async def wait_until_ready(self, seconds: float, progress: Progress | None = None) -> None:
        """Wait until every worker has started; see `start`."""
        starting = {
            worker.name: asyncio.ensure_future(self._bring_up(worker)) for worker in self._workers
        }
        try:
            missing = await missing_after(
                starting, phase=_PHASE, progress=progress, seconds=seconds
            )
        except RayTaskError as error:
            if isinstance(error.cause, CispoError):
                raise error.cause from error
            raise
        finally:
            for waiting in starting.values():
                waiting.cancel()
        if missing:
            raise ConfigError(
                f"cluster.startup_seconds={seconds}: not ready in time: {', '.join(missing)}; "
                "raise it, or lower reward.num_workers or reward.num_cpus"
            )
