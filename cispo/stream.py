"""Overlaps sampling with learning, and bounds the staleness of what is learned (stdlib only).

Groups are delivered in the order in which their tasks started. Counting slots alone would not bound
staleness, and delivering first what is done first would favour short answers.
"""

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from cispo.drops import DropReason, drop_reason, no_signal, ungraded_error
from cispo.errors import NoSignal
from cispo.ports import Progress, RolloutEngine, TaskSource, Verifier
from cispo.sampler import Sampler
from cispo.seeding import stream_seed
from cispo.types import Group

PHASE = "sample"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Finished:
    group: Group
    drop: DropReason | None


class OrderedStream:
    """Group k is the k-th task started; a dropped group is replaced by starting the next task.

    At most `(released + 1 + max_staleness) * tasks_per_iteration` groups are ever started and not
    dropped. A group that starts after r releases is therefore learned from in iteration
    r + max_staleness or before, and its staleness is at most `max_staleness`. With
    `max_staleness=0` the set of started tasks does not depend on timing.

    Args:
        tasks: The endless task sequence.
        engine: The behaviour policy.
        verifier: Judges each rollout.
        tasks_per_iteration: Groups that one `take` returns.
        group_size: G, rollouts of a task.
        max_staleness: Iterations that sampling may run ahead; 0 is synchronous.
        dynamic_sampling: Drop groups without signal; otherwise they are delivered.
        max_consecutive_drops: Groups dropped in a row before `take` raises `NoSignal`.
        max_ungraded_fraction: Share of an iteration's verdicts that may be `Ungraded`.
        seed: The run's seed.
        progress: Told about finished groups and about what is being waited for.
        first_task: Index of the first task, where a resumed run goes on.
        iterations: How many will be taken, so that none is sampled in vain; None for no end.
        restored: Groups that a checkpoint holds; their tasks are not sampled again.
    """

    def __init__(
        self,
        tasks: TaskSource,
        engine: RolloutEngine,
        verifier: Verifier,
        *,
        tasks_per_iteration: int,
        group_size: int,
        max_staleness: int,
        dynamic_sampling: bool,
        max_consecutive_drops: int,
        max_ungraded_fraction: float,
        seed: int,
        progress: Progress,
        first_task: int = 0,
        iterations: int | None = None,
        restored: Sequence[Group] = (),
    ) -> None:
        self._tasks = tasks
        self._sampler = Sampler(engine, verifier, group_size=group_size)
        self._tasks_per_iteration = tasks_per_iteration
        self._max_staleness = max_staleness
        self._dynamic_sampling = dynamic_sampling
        self._max_consecutive_drops = max_consecutive_drops
        self._max_ungraded_fraction = max_ungraded_fraction
        self._seed = seed
        self._progress = progress
        self._allowed = 0
        self._unreleased = math.inf if iterations is None else iterations
        self._next_start = first_task
        self._cursor = first_task
        self._running: dict[int, asyncio.Task[None]] = {}
        self._finished: dict[int, _Finished] = {}
        self._restored = {group.index: group for group in restored}
        self._failure: BaseException | None = None
        self._changed = asyncio.Event()
        self._dropped: dict[str, Sequence[Group]] = {}
        self._busy_at_take = 0.0
        self._sampling_seconds = 0.0

    @property
    def next_task_index(self) -> int:
        """Index after the last task whose group was delivered or dropped before it."""
        return self._cursor

    @property
    def dropped(self) -> Mapping[str, Sequence[Group]]:
        """The groups that the last `take` passed over, by `DropReason`."""
        return self._dropped

    @property
    def sampling_seconds(self) -> float:
        """Time between the last two takes in which at least one task was being sampled."""
        return self._sampling_seconds

    @property
    def in_flight(self) -> Sequence[Group]:
        """Groups that are judged and not taken, dropped ones included, in the order of their tasks.

        None with `max_staleness=0`: there a resume samples the same groups again.
        """
        if self._max_staleness == 0:
            return ()
        judged = {index: finished.group for index, finished in self._finished.items()}
        return [group for _, group in sorted((judged | self._restored).items())]

    async def __aenter__(self) -> Self:
        for _ in range(1 + self._max_staleness):
            self._allow_an_iteration()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for running in self._running.values():
            running.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    def release(self) -> None:
        """Allow the sampling of one more iteration: new weights have been published."""
        self._allow_an_iteration()

    async def take(self) -> Sequence[Group]:
        """Wait for the groups of one iteration and return them in the order of their tasks.

        Raises:
            NoSignal: `max_consecutive_drops` groups in a row were dropped.
            UngradedError: More than `max_ungraded_fraction` of the verdicts are missing.
            Exception: Whatever a task failed with, as soon as it fails.
        """
        shown = 0
        self._progress.start(PHASE, self._tasks_per_iteration)
        try:
            async with self._sampler.reporting(self._progress, PHASE):
                while True:
                    self._changed.clear()
                    if self._failure is not None:
                        raise self._failure
                    kept = sum(f.drop is None for f in self._finished.values())
                    ready = min(kept, self._tasks_per_iteration)
                    self._progress.advance(PHASE, ready - shown)
                    shown = ready
                    window = self._window()
                    self._refuse_missing_verdicts(window)
                    if sum(f.drop is None for f in window) == self._tasks_per_iteration:
                        return self._consume(window)
                    await self._changed.wait()
        finally:
            self._progress.finish(PHASE)

    def _refuse_missing_verdicts(self, window: Sequence[_Finished]) -> None:
        if len(window) >= self._tasks_per_iteration:
            error = ungraded_error([f.group for f in window], self._max_ungraded_fraction)
            if error is not None:
                raise error

    def _allow_an_iteration(self) -> None:
        if self._unreleased > 0:
            self._unreleased -= 1
            self._allowed += self._tasks_per_iteration
            self._start_allowed()

    def _start_allowed(self) -> None:
        while self._allowed > 0 and self._failure is None:
            index = self._next_start
            self._next_start += 1
            self._allowed -= 1
            if index in self._restored:
                self._keep(self._restored.pop(index))
            else:
                self._running[index] = asyncio.create_task(self._run(index), name=f"group {index}")

    async def _run(self, index: int) -> None:
        try:
            seed = stream_seed(self._seed, "rollout", index)
            group = await self._sampler.group(index, self._tasks.task(index), seed=seed)
        except Exception as error:
            self._failure = self._failure or error
        else:
            self._keep(group)
            self._start_allowed()
        finally:
            del self._running[index]
            self._changed.set()

    def _keep(self, group: Group) -> None:
        drop = drop_reason(group) if self._dynamic_sampling else None
        self._finished[group.index] = _Finished(group=group, drop=drop)
        if drop is not None:
            self._allowed += 1
            self._failure = self._failure or self._run_of_drops()

    def _run_of_drops(self) -> NoSignal | None:
        """Look in task order, not in order of completion, so that timing does not decide."""
        run: list[_Finished] = []
        for index in range(self._cursor, self._next_start):
            finished = self._finished.get(index)
            if finished is None or finished.drop is None:
                run.clear()
                continue
            run.append(finished)
            if len(run) == self._max_consecutive_drops:
                return no_signal([f.group for f in run], [f.drop for f in run if f.drop])
        return None

    def _window(self) -> list[_Finished]:
        """Finished groups from the cursor up to the first gap or the end of the iteration."""
        window: list[_Finished] = []
        kept = 0
        while kept < self._tasks_per_iteration:
            finished = self._finished.get(self._cursor + len(window))
            if finished is None:
                break
            window.append(finished)
            kept += finished.drop is None
        return window

    def _consume(self, window: Sequence[_Finished]) -> list[Group]:
        for _ in window:
            del self._finished[self._cursor]
            self._cursor += 1
        self._dropped = {
            reason: [f.group for f in window if f.drop is reason] for reason in DropReason
        }
        busy = self._sampler.busy_seconds
        self._sampling_seconds, self._busy_at_take = busy - self._busy_at_take, busy
        return [f.group for f in window if f.drop is None]
