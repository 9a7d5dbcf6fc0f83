"""Mathematical equality by math-verify; runs only inside the killable grader process."""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from math_verify import parse, verify

from rewards.truth import BadTruthError, truth_field

MAX_ANSWER_CHARACTERS = 4096
_FULL_STOP = re.compile(r"\.\s*\}\s*\.?\s*\Z")
"""A sentence's end inside the box."""

_NUMBER = re.compile(r"[-+]?\d[\d.,]*")
"""Read as text, because a comma in it may be a decimal one."""


def grade_math(answer: str, truth: Mapping[str, Any]) -> Mapping[str, float]:
    """Return `correct`: whether an extracted answer equals the reference.

    Args:
        answer: A box with its content, or a line.
        truth: `{"answer": reference}`.

    Raises:
        BadTruthError: The reference cannot be read.
    """
    gold = _parse_reference(truth_field(truth, "answer", str))
    if not answer or len(answer) > MAX_ANSWER_CHARACTERS:
        return {"correct": 0.0}
    # The grader process has its own deadline; math-verify's would need signals.
    predicted = parse(_FULL_STOP.sub("}", answer), parsing_timeout=None)
    return {"correct": float(verify(list(gold), predicted, timeout_seconds=None))}


@lru_cache(maxsize=4096)
def _parse_reference(reference: str) -> tuple[Any, ...]:
    is_whole = "\\boxed" in reference or "$" in reference or _NUMBER.fullmatch(reference.strip())
    parsed = parse(reference if is_whole else rf"\boxed{{{reference}}}", parsing_timeout=None)
    if not parsed:
        raise BadTruthError(f"the reference answer {reference!r} cannot be parsed")
    return tuple(parsed)
