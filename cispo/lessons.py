"""Looks back at what an iteration learned from: how far it moved pi on single tokens."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from itertools import chain
from typing import TypeAlias

from cispo.anchor import Groups, Scorer
from cispo.types import Lesson, PolicyVersion, Rollout, Sample
from cispo.version_runs import first_runs

Review: TypeAlias = Callable[[int, Groups], Awaitable[Sequence[Lesson]]]
"""Takes the iteration, from 1, and its samples; returns a lesson a sample."""


async def unmeasured(step: int, groups: Groups) -> Sequence[Lesson]:
    """Keep the advantages alone, which costs nothing."""
    return [Lesson(sample=sample) for sample in chain.from_iterable(groups)]


class Retrospect:
    """Scores the first samples of an iteration by the weights that its updates have led to.

    Args:
        scorer: The learner.
        max_tokens: Tokens, prompts included, that are scored in an iteration; the last sample is
            cut where they end, which changes nothing before the cut.
        every: Iterations from one that is looked back at to the next, as they are recorded.
    """

    def __init__(self, scorer: Scorer, *, max_tokens: int, every: int = 1) -> None:
        self._scorer = scorer
        self._max_tokens = max_tokens
        self._every = every

    async def __call__(self, step: int, groups: Groups) -> Sequence[Lesson]:
        """Return a lesson a sample, in order.

        Raises:
            LearnerError: A rank is lost.
        """
        lessons = list(await unmeasured(step, groups))
        if step % self._every:
            return lessons
        chosen = _beginnings([lesson.sample for lesson in lessons], self._max_tokens)
        if chosen:
            scored = await self._scorer.logprobs(chosen)
            for index, logprobs in enumerate(scored):
                lessons[index] = replace(lessons[index], logprobs=logprobs)
        return lessons


def _beginnings(samples: Sequence[Sample], max_tokens: int) -> list[Sample]:
    """The first samples up to a number of tokens, the last one cut to what is left."""
    chosen: list[Sample] = []
    for sample in samples:
        length = min(len(sample.rollout.token_ids), max_tokens)
        if not any(sample.rollout.action_mask[:length]):
            break
        cut = beginning(sample.rollout, length)
        chosen.append(replace(sample, rollout=cut, anchor_logprobs=None))
        max_tokens -= length
    return chosen


def beginning(rollout: Rollout, length: int) -> Rollout:
    """The first tokens of a rollout, at least one of them an action, as a rollout of their own."""
    if length >= len(rollout.token_ids):
        return rollout
    mask = rollout.action_mask[:length]
    runs = first_runs(rollout.version_runs, sum(mask))
    routes = rollout.routed_experts
    versions = [version for version, _ in runs] or [rollout.oldest_version, rollout.newest_version]
    return replace(
        rollout,
        token_ids=rollout.token_ids[:length],
        action_mask=mask,
        behaviour_logprobs=rollout.behaviour_logprobs[:length],
        oldest_version=PolicyVersion(min(versions)),
        newest_version=PolicyVersion(max(versions)),
        version_runs=runs,
        routed_experts=None if routes is None else routes[: rollout.num_routes * length],
    )
