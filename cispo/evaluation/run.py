"""Samples and judges all problems of all sets, many at once, and keeps each answer as it comes."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cispo.evaluation.answers import Answer, AnswerFile, answers_of
from cispo.ports import Progress, RolloutEngine, Verifier
from cispo.sampler import Sampler
from cispo.seeding import stream_seed
from cispo.types import Task

PHASE = "evaluate"

Vote = Callable[[str, str, Mapping[str, Any]], str | None]
"""Takes a verifier's name, an answer and the task's truth; returns what the answer votes for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemSet:
    """What is asked, of whom, and how often.

    Attributes:
        name: For answers and results.
        tasks: The problems; their ids differ.
        engine: Answers, with this set's budget of tokens.
        num_rollouts: n, answers to each problem.
    """

    name: str
    tasks: Sequence[Task]
    engine: RolloutEngine
    num_rollouts: int


async def answer_all(
    sets: Sequence[ProblemSet],
    verifier: Verifier,
    file: AnswerFile,
    *,
    vote: Vote,
    seed: int,
    max_concurrent: int,
    progress: Progress,
) -> dict[str, list[Answer]]:
    """Answer every problem that the file does not hold, and return all answers by set.

    A problem's seed depends on its set and id alone, so that neither a resume nor more problems
    change its answers.

    Args:
        sets: What is asked.
        verifier: Judges.
        file: Keeps the answers to a problem as soon as they are judged.
        vote: Extracts what an answer votes for.
        seed: Of the evaluation.
        max_concurrent: Problems under way at once.
        progress: Told about problems.

    Raises:
        RolloutError: A problem cannot be answered; what was answered before is kept.
    """
    progress.start(PHASE, sum(len(one.tasks) for one in sets))
    slots = asyncio.Semaphore(max_concurrent)
    running: list[asyncio.Task[list[Answer]]] = []

    async def answered(index: int, one: ProblemSet, task: Task, sampler: Sampler) -> list[Answer]:
        found = list(file.group(one.name, task.task_id, size=one.num_rollouts))
        if not found:
            async with slots:
                group = await sampler.group(
                    index, task, seed=stream_seed(seed, PHASE, one.name, task.task_id)
                )
            votes = [vote(task.verifier, rollout.text, task.truth) for rollout in group.rollouts]
            found = answers_of(one.name, group, votes)
            file.append(found)
        progress.advance(PHASE)
        return found

    answers: dict[str, list[Answer]] = {}
    try:
        for one in sets:
            sampler = Sampler(one.engine, verifier, group_size=one.num_rollouts)
            running = [
                asyncio.create_task(answered(index, one, task, sampler))
                for index, task in enumerate(one.tasks)
            ]
            async with sampler.reporting(progress, PHASE):
                found = await asyncio.gather(*running)
            answers[one.name] = [answer for group in found for answer in group]
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        progress.finish(PHASE)
    return answers
