"""Measures the policy on held-out tasks: avg@k and pass@k (stdlib only)."""

import asyncio
import math
from collections import defaultdict
from collections.abc import Sequence

from cispo.drops import ungraded_error
from cispo.ports import Progress, RolloutEngine, Verifier
from cispo.sampler import Sampler
from cispo.seeding import stream_seed
from cispo.types import Group, Metrics, Task, Ungraded

PHASE = "evaluate"


class HeldOutEvaluator:
    """Evaluates the same tasks with the same seeds every time, so that evaluations compare.

    Args:
        tasks: The held-out tasks.
        engine: Samples with the evaluation's settings.
        verifier: Judges each rollout.
        num_rollouts: k, rollouts of a task.
        seed: The run's seed.
        progress: Told about finished tasks and about what is being waited for.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        engine: RolloutEngine,
        verifier: Verifier,
        *,
        num_rollouts: int,
        seed: int,
        progress: Progress,
    ) -> None:
        self._tasks = tuple(tasks)
        self._sampler = Sampler(engine, verifier, group_size=num_rollouts)
        self._seed = seed
        self._progress = progress
        self._groups: Sequence[Group] = ()

    @property
    def groups(self) -> Sequence[Group]:
        """What the last evaluation sampled, with its verdicts, in the order of the tasks."""
        return self._groups

    async def evaluate(self) -> Metrics:
        """Sample and grade all tasks.

        Returns:
            What `describe_heldout` makes of the groups.

        Raises:
            UngradedError: No verdict at all could be made.
        """
        self._progress.start(PHASE, len(self._tasks))
        running = [
            asyncio.create_task(self._group(index, task)) for index, task in enumerate(self._tasks)
        ]
        try:
            async with self._sampler.reporting(self._progress, PHASE):
                self._groups = await asyncio.gather(*running)
        finally:
            for group in running:
                group.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            self._progress.finish(PHASE)
        return describe_heldout(self._groups)

    async def _group(self, index: int, task: Task) -> Group:
        seed = stream_seed(self._seed, "heldout", index)
        group = await self._sampler.group(index, task, seed=seed)
        self._progress.advance(PHASE)
        return group


def describe_heldout(groups: Sequence[Group]) -> dict[str, float]:
    """Describe judged held-out groups, each of k rollouts.

    avg@k is the mean over tasks of the share of right answers among the task's graded rollouts;
    pass@k is the share of tasks with a right one among k. `Ungraded` rollouts vote in neither.

    Raises:
        UngradedError: Nothing was graded.
    """
    judged = [group for group in groups if group.graded]
    if not judged:
        raise ungraded_error(groups, 0.0) or ValueError("there is no held-out task")
    size = len(groups[0].rollouts)
    by_source: defaultdict[str, list[float]] = defaultdict(list)
    for group in judged:
        by_source[group.task.source].append(_num_right(group) / len(group.graded))
    described = {f"heldout/avg@{size}": _mean([v for vs in by_source.values() for v in vs])}
    for source, rates in sorted(by_source.items()):
        described[f"heldout/avg@{size}/{source}"] = _mean(rates)
    for k in _powers_of_two_and(size):
        passes = [pass_at_k(len(g.graded), _num_right(g), k) for g in judged if len(g.graded) >= k]
        if passes:
            described[f"heldout/pass@{k}"] = _mean(passes)
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    verdicts = [verdict for group in groups for verdict in group.verdicts]
    described["heldout/length_mean_tokens"] = _mean([r.num_action_tokens for r in rollouts])
    described["heldout/tasks"] = float(len(groups))
    described["heldout/invalid_rollouts"] = float(sum(isinstance(v, Ungraded) for v in verdicts))
    return described


def pass_at_k(num_rollouts: int, num_right: int, k: int) -> float:
    """Estimate without bias how likely k rollouts hold a right one.

    1 - C(n - c, k) / C(n, k), Chen et al. 2021 (arXiv 2107.03374), eq. 1.

    Raises:
        ValueError: There are fewer than k rollouts.
    """
    if not 1 <= k <= num_rollouts:
        raise ValueError(f"pass@{k} needs at least {k} rollouts, got {num_rollouts}")
    return 1.0 - math.comb(num_rollouts - num_right, k) / math.comb(num_rollouts, k)


def _num_right(group: Group) -> int:
    return sum(verdict.parts["correct"] >= 1.0 for _, verdict in group.graded)


def _powers_of_two_and(size: int) -> list[int]:
    return sorted({size, *(2**power for power in range(1, size.bit_length()) if 2**power <= size)})


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
