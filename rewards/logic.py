"""Puzzles by reasoning-gym's own scorers or by ours; runs only in the killable grader process.

Some scorers hand the answer to `eval`. Those see only answers that cannot call or reach into
anything.
"""

import inspect
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import reasoning_gym
from reasoning_gym.factory import DATASETS

from rewards.synlogic.puzzles import PUZZLES
from rewards.truth import BadTruthError, truth_field

MAX_ANSWER_CHARACTERS = 16384
_FULL_SCORE = 1.0 - 1e-6
_EVALUATES_ANSWER = re.compile(r"\b(?:eval|exec|parse_expr|parse_latex|sympify)\(\s*answer\b")
_SCORES_ANYTHING = frozenset({"game_of_life_halting"})
"""Data sets whose scorer accepts every answer; theirs is compared with the stored one."""

_COMPARES_TUPLES = frozenset({"arc_agi", "rearc"})
"""Data sets whose scorer compares `metadata.output` with tuples, which JSON made lists."""

_NO_NUMBER = re.compile(r"(?<![a-z])nan(?![a-ik-z])", re.IGNORECASE)
"""Each comparison with it is false, and Python's `min` takes it for the smallest: a full score."""

_HARMLESS_CHARACTERS = re.compile(r"[\w\s+\-*/^.,()\[\]]*|[\w\s+\-*/^.,\[\]'\"]*")
"""Calls or strings, never both: sympy's functions evaluate a string that they are called with."""

_REACHES_INTO = re.compile(r"__|\.\s*[^\W\d]")
_CALL = re.compile(r"(\w*)\s*\(")
_FUNCTIONS = frozenset(
    {
        *("sin", "cos", "tan", "sec", "csc", "cot", "asin", "acos", "atan", "sinh", "cosh", "tanh"),
        *("exp", "log", "ln", "sqrt", "Abs", "abs", "Rational"),
    }
)

Scorer = Callable[[str, Mapping[str, Any]], float]


def grade_logic(answer: str, truth: Mapping[str, Any]) -> Mapping[str, float]:
    """Return the data set's own `score` and `correct`, which is 1.0 only for a full score.

    Args:
        answer: The answer as text.
        truth: `{"dataset": name, "entry": the data set's item}` of reasoning-gym, or
            `{"puzzle": name, "answer": .., "metadata": {..}}` of `rewards.synlogic`.

    Raises:
        BadTruthError: There is no such data set or puzzle, or no item.
    """
    if "puzzle" in truth:
        return _grade_puzzle(answer, truth)
    name = truth_field(truth, "dataset", str)
    entry = truth_field(truth, "entry", dict)
    scorer, evaluates_answer = _scorer(name)
    is_gradable = bool(answer) and len(answer) <= MAX_ANSWER_CHARACTERS
    is_gradable &= not _NO_NUMBER.search(answer) or bool(
        _NO_NUMBER.search(str(entry.get("answer")))
    )
    if name in _COMPARES_TUPLES:
        board = tuple(map(tuple, entry["metadata"]["output"]))
        entry = {**entry, "metadata": {**entry["metadata"], "output": board}}
    if not is_gradable or (evaluates_answer and not is_harmless(answer)):
        score = 0.0
    elif name in _SCORES_ANYTHING:
        score = float(answer.strip().lower() == str(entry["answer"]).strip().lower())
    else:
        score = min(max(float(scorer(answer, entry)), 0.0), 1.0)
    return {"correct": float(score >= _FULL_SCORE), "score": score}


def _grade_puzzle(answer: str, truth: Mapping[str, Any]) -> Mapping[str, float]:
    name = truth_field(truth, "puzzle", str)
    if name not in PUZZLES:
        raise BadTruthError(f"there is no puzzle {name!r}; there are {', '.join(PUZZLES)}")
    if not answer or len(answer) > MAX_ANSWER_CHARACTERS:
        return {"correct": 0.0, "score": 0.0}
    try:
        solved = float(PUZZLES[name](answer, truth))
    except (KeyError, TypeError, ValueError) as error:
        raise BadTruthError(f"puzzle {name}: {error!r} in {str(dict(truth))[:200]}") from error
    return {"correct": solved, "score": solved}


def is_harmless(answer: str) -> bool:
    """Whether evaluating the answer can only compute: known functions and no attributes."""
    if not _HARMLESS_CHARACTERS.fullmatch(answer) or _REACHES_INTO.search(answer):
        return False
    for call in _CALL.finditer(answer):
        before = answer[: call.start()].rstrip()[-1:]
        if call[1] and call[1] not in _FUNCTIONS and not call[1].isdigit():
            return False
        if not call[1] and before and before not in "+-*/^,([":
            return False
    return True


@lru_cache(maxsize=256)
def _scorer(name: str) -> tuple[Scorer, bool]:
    if name not in DATASETS:
        raise BadTruthError(f"reasoning-gym has no data set {name!r}")
    data_set = reasoning_gym.create_dataset(name, size=1, seed=0)
    source = inspect.getsource(inspect.getmodule(type(data_set)) or type(data_set))
    return data_set.score_answer, bool(_EVALUATES_ANSWER.search(source))
