"""What a rollout votes for where the most frequent answer decides (stdlib only)."""

import re
from collections.abc import Mapping
from typing import Any

from rewards.extract import after_thought, boxed, math_answer, tagged_answer
from rewards.recall import said
from rewards.wording import squashed

_LEADS_TO = re.compile(r"\b(?:is|are|equals)\b:?|:\s|####|=")
_LAST_MARKS = ".,; \n"


def vote(verifier: str, text: str, truth: Mapping[str, Any]) -> str | None:
    """Return the final answer in a form in which equal answers are equal texts, or None.

    Mathematics is compared as it is written, without spaces and layout: what is equal only by
    calculation votes apart. Programs, patches and judged texts have no vote.

    Args:
        verifier: Of the task.
        text: What was answered.
        truth: Of the task; only the form of its answers is looked at.
    """
    match verifier:
        case "math":
            answer = math_answer(text).rstrip(_LAST_MARKS)
            boxes = boxed(answer)
            return squashed(boxes[-1] if boxes else _LEADS_TO.split(answer)[-1]) or None
        case "logic":
            return " ".join(tagged_answer(text).split()) or None
        case "recall":
            return said(after_thought(text), truth)
    return None
