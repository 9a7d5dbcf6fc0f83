"""Answers to questions about long prompts, by the rules of the sets that they come from.

Runs in the killable grader process: comparing two long texts can take long. (Stdlib only.)
"""

import ast
import difflib
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from rewards.extract import tagged_answer
from rewards.truth import BadTruthError, truth_field

_REGRETS = ("sorry", "no previous conversation", "抱歉", "没有之前的对话")
_LIST = re.compile(r"\[[\d\s,]*\]")
_LETTER = re.compile(r"[Tt]he correct answer is:?\s*\(?([A-D])\b")
_MOST_LITERAL_CHARACTERS = 2**16


def grade_recall(answer: str, truth: Mapping[str, Any]) -> Mapping[str, float]:
    """Return the set's own `score`, and `correct`, which is 1.0 only for a full score.

    Args:
        answer: What follows the thought.
        truth: `form` and what it needs. `contains`: share of the `parts` that occur. `components`:
            the same, and 0 for an answer that says sorry (MR-NIAH). `verbatim`: begins with
            `prefix` or scores 0, then difflib's ratio with `text` (OpenAI-MRCR). `value`: the same
            Python literal (latent list). `counts`: share of the `counts` that are listed; a full
            score needs their order. `letter`: the chosen one (LongBench-v2).

    Raises:
        BadTruthError: There is no such form, or something of it is missing.
    """
    form = truth_field(truth, "form", str)
    if form not in _FORMS:
        raise BadTruthError(f"truth['form'] is {form!r}; there are {', '.join(_FORMS)}")
    score = _FORMS[form](answer, truth)
    return {"correct": float(score == 1.0), "score": score}


def said(answer: str, truth: Mapping[str, Any]) -> str | None:
    """Return what an answer votes for, None where it is in no form that was asked for."""
    match truth.get("form"):
        case "letter":
            return _letter(answer)
        case "value":
            value = _literal(tagged_answer(answer))
            return None if value is None else repr(value)
        case "counts":
            listed = _listed(answer)
            return None if listed is None else str(listed)
    return " ".join(answer.split()) or None


def _contains(answer: str, truth: Mapping[str, Any]) -> float:
    parts = truth_field(truth, "parts", list)
    if not parts:
        raise BadTruthError("truth['parts'] is empty")
    return sum(part in answer for part in parts) / len(parts)


def _components(answer: str, truth: Mapping[str, Any]) -> float:
    if any(regret in answer.lower() for regret in _REGRETS):
        return 0.0
    return _contains(answer, truth)


def _verbatim(answer: str, truth: Mapping[str, Any]) -> float:
    prefix, text = truth_field(truth, "prefix", str), truth_field(truth, "text", str)
    if not answer.startswith(prefix):
        return 0.0
    return difflib.SequenceMatcher(None, answer.removeprefix(prefix), text).ratio()


def _value(answer: str, truth: Mapping[str, Any]) -> float:
    wanted = _literal(truth_field(truth, "value", str))
    if wanted is None:
        raise BadTruthError(f"truth['value'] is {truth['value']!r}, no number and no list of them")
    return float(_literal(tagged_answer(answer)) == wanted)


def _counts(answer: str, truth: Mapping[str, Any]) -> float:
    wanted, given = truth_field(truth, "counts", list), _listed(answer)
    if given is None:
        return 0.0
    if given == wanted:
        return 1.0
    found = (Counter(given) & Counter(wanted)).total() / max(len(given), len(wanted), 1)
    return min(found, 1.0 - 1.0 / (len(wanted) + 1))


def _chosen(answer: str, truth: Mapping[str, Any]) -> float:
    return float(_letter(answer) == truth_field(truth, "letter", str))


_FORMS: Mapping[str, Callable[[str, Mapping[str, Any]], float]] = {
    "contains": _contains,
    "components": _components,
    "verbatim": _verbatim,
    "value": _value,
    "counts": _counts,
    "letter": _chosen,
}


def _letter(answer: str) -> str | None:
    found = _LETTER.search(answer.replace("*", ""))
    return found[1] if found else None


def _listed(answer: str) -> list[int] | None:
    """Return the last list of numbers."""
    found = _LIST.findall(answer)
    try:
        return json.loads(found[-1]) if found else None
    except (ValueError, RecursionError):
        return None


def _literal(text: str) -> object:
    """Return a number or a list of numbers; None where it is none."""
    text = text.strip().strip("`").strip()
    try:
        value = ast.literal_eval(text) if len(text) <= _MOST_LITERAL_CHARACTERS else None
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    is_list = isinstance(value, list) and all(type(item) is int for item in value)
    return value if is_list or type(value) is int else None
