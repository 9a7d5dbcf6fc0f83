"""Gives each reference answer to its own verifier as an answer, which must be judged right."""

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace

from cispo.config import RewardConfig, SandboxConfig
from cispo.data.screening.removal import Removal, RemovalReason
from cispo.errors import RolloutError, UngradedError
from cispo.evaluation.texts import perfect_texts, text_rollout
from cispo.ports import Progress, Verifier
from cispo.types import Graded, Task, Ungraded, Verdict
from rewards.build import build_verifier

CHECKED = ("math", "logic")
"""Verifiers whose tasks are checked; programs and patches are by `python -m launch.admit`."""

_PHASE = "check answers"
_ATTEMPTS = 3


async def check_references(
    tasks: Mapping[int, Task], reward: RewardConfig, *, progress: Progress
) -> dict[int, Removal]:
    """Find the tasks whose reference cannot be read, or is itself not judged right.

    Equal references are judged once. Puzzles of which no answer is stored are let through.

    Args:
        tasks: By index; those of other verifiers are passed over.
        reward: Deadlines of graders.
        progress: Told about references.

    Returns:
        Removals by index.

    Raises:
        UngradedError: A reference could not be judged, and not through its own fault.
    """
    alike: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for index, task in tasks.items():
        if task.verifier in CHECKED:
            alike[task.verifier, json.dumps(task.truth, sort_keys=True, default=str)].append(index)
    verifier = build_verifier(
        replace(reward, verifiers=sorted({name for name, _ in alike}), overlong_cache_tokens=0),
        SandboxConfig(),
        max_new_tokens=1,
    )
    removed: dict[int, Removal] = {}
    progress.start(_PHASE, len(alike))
    try:
        await verifier.start()
        for indices in alike.values():
            removal = await _check(tasks[indices[0]], verifier)
            if removal is not None:
                removed.update(dict.fromkeys(indices, removal))
            progress.advance(_PHASE)
    finally:
        progress.finish(_PHASE)
        await verifier.close()
    return removed


async def _check(task: Task, verifier: Verifier) -> Removal | None:
    try:
        [text] = perfect_texts(task, 1)
    except RolloutError:
        return None
    match await _judged(task, text, verifier):
        case Ungraded(cause=cause, is_for_good=True):
            return Removal(reason=RemovalReason.UNREADABLE_ANSWER, detail=cause)
        case Ungraded(cause=cause):
            raise UngradedError(
                f"the reference answer of {task.task_id} could not be judged in {_ATTEMPTS} "
                f"attempts: {cause}; try again, or leave the check out by check_answers=false"
            )
        case Graded(parts=parts) if parts["correct"] < 1.0:
            detail = f"{text} is judged wrong"
            return Removal(reason=RemovalReason.REJECTED_ANSWER, detail=detail)
    return None


async def _judged(task: Task, text: str, verifier: Verifier) -> Verdict:
    for _ in range(_ATTEMPTS):
        verdict = await verifier.grade(task, text_rollout(task, text))
        if isinstance(verdict, Graded) or verdict.is_for_good:
            break
    return verdict
