"""Goes through tasks and says which are left out of training, and why (stdlib only)."""

import json
from collections.abc import Collection, Hashable, Mapping, Sequence

from cispo.data.screening.contamination import EvaluationIndex
from cispo.data.screening.duplicates import find_duplicates
from cispo.data.screening.forms import FORMS
from cispo.data.screening.removal import Removal, RemovalReason
from cispo.data.screening.words import words
from cispo.types import Task

_FORMS_OF = "math"


def screen(
    tasks: Sequence[Task],
    problems: Sequence[str],
    evaluations: Mapping[str, str],
    *,
    similarity: float,
    duplicate_run_words: int,
    cover: float,
    contamination_run_words: int,
    forms: Collection[RemovalReason],
) -> dict[int, Removal]:
    """Find the tasks that are contaminated, repeat another one, or have a form that is not wanted.

    Args:
        tasks: In the order in which the first of two is kept.
        problems: What each task asks, without instructions that many share.
        evaluations: What evaluations ask, by name.
        similarity: See `find_duplicates`.
        duplicate_run_words: See `find_duplicates`.
        cover: See `EvaluationIndex`.
        contamination_run_words: See `EvaluationIndex`.
        forms: Those that are left out of mathematics.

    Returns:
        Removals by the task's index.
    """
    split = [words(problem) for problem in problems]
    known = EvaluationIndex(
        {name: words(problem) for name, problem in evaluations.items()},
        run_words=contamination_run_words,
        cover=cover,
    )
    removed: dict[int, Removal] = {}
    for index, found in enumerate(map(known.find, split)):
        if found is not None:
            detail = f"{found.cover:.0%} of the words of {found.name}"
            removed[index] = Removal(reason=RemovalReason.CONTAMINATED, detail=detail)
    left = [index for index in range(len(tasks)) if index not in removed]
    for duplicate in find_duplicates(
        [split[index] for index in left],
        [_answer(tasks[index]) for index in left],
        similarity=similarity,
        run_words=duplicate_run_words,
    ):
        detail = f"of {tasks[left[duplicate.of]].task_id}, similarity {duplicate.similarity:.2f}"
        removed[left[duplicate.index]] = Removal(reason=duplicate.reason, detail=detail)
    for index, task in enumerate(tasks):
        if index not in removed and task.verifier == _FORMS_OF:
            removal = _form(problems[index], str(task.truth.get("answer", "")), forms)
            if removal is not None:
                removed[index] = removal
    return removed


def _form(problem: str, answer: str, forms: Collection[RemovalReason]) -> Removal | None:
    for reason, find in FORMS.items():
        if reason in forms and (sign := find(problem, answer)):
            return Removal(reason=reason, detail=sign)
    return None


def _answer(task: Task) -> Hashable:
    """The answer, so that spaces and LaTeX's layout make no other one of it."""
    stored = task.truth.get("entry", task.truth)  # a puzzle's has its place in the family besides
    answer = stored.get("answer") if isinstance(stored, Mapping) else None
    if isinstance(answer, str):
        return task.verifier, tuple(words(answer))
    return task.verifier, json.dumps(task.truth, sort_keys=True, default=str)
