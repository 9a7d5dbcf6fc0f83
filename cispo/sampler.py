"""Turns tasks into judged groups, and can name those under way (stdlib only)."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, replace

from cispo.errors import RolloutError
from cispo.naming import naming
from cispo.ports import Progress, RolloutEngine, Verifier
from cispo.types import Group, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class _UnderWay:
    task_id: str
    stage: str
    since: float


class Sampler:
    """Samples and grades groups, many at once.

    Args:
        engine: The behaviour policy.
        verifier: Judges each rollout.
        group_size: G, rollouts of a task.
        clock: Seconds from an arbitrary zero.
    """

    def __init__(
        self,
        engine: RolloutEngine,
        verifier: Verifier,
        *,
        group_size: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._verifier = verifier
        self._group_size = group_size
        self._clock = clock
        self._under_way: dict[int, _UnderWay] = {}
        self._num_sampling = 0
        self._busy_since = 0.0
        self._busy_seconds = 0.0

    @property
    def busy_seconds(self) -> float:
        """Time so far in which at least one task was being sampled."""
        running = self._clock() - self._busy_since if self._num_sampling else 0.0
        return self._busy_seconds + running

    async def group(self, index: int, task: Task, *, seed: int) -> Group:
        """Sample the task's rollouts and grade them all at once.

        Raises:
            RolloutError: The engine failed, or returned another number of rollouts.
        """
        started = _UnderWay(task_id=task.task_id, stage="sampling", since=self._clock())
        self._under_way[index] = started
        try:
            with self._busy():
                rollouts = await self._engine.sample(task, self._group_size, seed=seed)
            if len(rollouts) != self._group_size:
                raise RolloutError(
                    f"task {task.task_id}: {len(rollouts)} rollouts of {self._group_size} came back"
                )
            self._under_way[index] = replace(started, stage="grading")
            verdicts = await asyncio.gather(*(self._verifier.grade(task, r) for r in rollouts))
        finally:
            del self._under_way[index]
        return Group(index=index, task=task, rollouts=tuple(rollouts), verdicts=tuple(verdicts))

    @contextmanager
    def _busy(self) -> Iterator[None]:
        if self._num_sampling == 0:
            self._busy_since = self._clock()
        self._num_sampling += 1
        try:
            yield
        finally:
            self._num_sampling -= 1
            if self._num_sampling == 0:
                self._busy_seconds += self._clock() - self._busy_since

    def waiting_for(self, *, limit: int = 3) -> str:
        """Name the tasks that have been under way the longest, with stage and age in seconds."""
        now = self._clock()
        oldest = sorted(self._under_way.values(), key=lambda task: task.since)
        named = [f"{t.task_id} ({t.stage} {now - t.since:.0f} s)" for t in oldest[:limit]]
        if len(oldest) > limit:
            named.append(f"{len(oldest) - limit} more")
        return ", ".join(named)

    def reporting(
        self, progress: Progress, phase: str, *, every_seconds: float = 1.0
    ) -> AbstractAsyncContextManager[None]:
        """Tell `progress` at intervals what is being waited for, as long as the block runs."""
        return naming(progress, phase, self.waiting_for, every_seconds=every_seconds)
