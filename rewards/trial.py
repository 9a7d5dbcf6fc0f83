"""Tries users' verifiers before a run, so that none fails for the first time in the midst of it."""

import asyncio
from collections.abc import Mapping, Sequence

from cispo.errors import ConfigError
from cispo.types import Task, Ungraded
from rewards.extract import after_thought
from rewards.grader_process import GraderProcess

TRIED = ("", "?")
"""What policies answer that have learned nothing yet; any text must get a verdict."""


def try_verifiers(
    functions: Mapping[str, str], tasks: Sequence[Task], *, deadline_seconds: float
) -> None:
    """Grade a first task's worked solution, where it has one, and two answers that are none.

    Args:
        functions: Users' verifiers, `FILE.py:FUNCTION` by name.
        tasks: Of which each verifier judges the first that names it.
        deadline_seconds: Of one grading.

    Raises:
        ConfigError: A file cannot be run, or a verifier fails; the message names both and the task.
    """
    for name, reference in functions.items():
        task = next((task for task in tasks if task.verifier == name), None)
        if task is not None:
            asyncio.run(_try(reference, task, deadline_seconds=deadline_seconds))


async def _try(reference: str, task: Task, *, deadline_seconds: float) -> None:
    solution = () if task.solution is None else (after_thought(task.solution),)
    process = GraderProcess([reference], deadline_seconds=deadline_seconds)
    try:
        await process.start()
        for answer in (*TRIED, *solution):
            parts = await process.grade(reference, answer, task.truth)
            tried = f"tried on task {task.task_id} with the answer {answer!r:.80}"
            if isinstance(parts, Ungraded):
                raise ConfigError(f"reward.verifiers: {parts.cause}; {tried}")
            if "deadline_missed" in parts:
                raise ConfigError(
                    f"reward.deadline_seconds={deadline_seconds:g}: {reference} gave no verdict in "
                    f"time; {tried}"
                )
    finally:
        await process.close()
