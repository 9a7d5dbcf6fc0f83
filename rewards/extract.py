"""Where the answer lies in a rollout's text (stdlib only)."""

import re

_THOUGHT_OPENS, _THOUGHT_CLOSES = "<think>", "</think>"
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_PROGRAM = re.compile(r"```(?:python3?|py)[ \t]*\n(.*?)(?:\n?```|\Z)", re.DOTALL | re.IGNORECASE)
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)  # an escaped brace is a character
_BOXES = (r"\boxed", r"\fbox")


def after_thought(text: str) -> str:
    """Return what follows the last `</think>`, or the whole text if there was no thought.

    A thought that was begun and never ended is followed by nothing.
    """
    if _THOUGHT_CLOSES in text:
        return text.rpartition(_THOUGHT_CLOSES)[2].strip()
    return "" if _THOUGHT_OPENS in text else text.strip()


def has_form(text: str) -> bool:
    """Whether the text is one thought, then an answer that is not empty.

    The opening tag may be missing, because some chat templates put it into the prompt.
    """
    thought, closes, answer = text.partition(_THOUGHT_CLOSES)
    if not closes or not answer.strip() or _THOUGHT_CLOSES in answer or _THOUGHT_OPENS in answer:
        return False
    return _THOUGHT_OPENS not in thought.strip().removeprefix(_THOUGHT_OPENS)


def tagged_answer(text: str) -> str:
    """Return the last `<answer>..</answer>` after the thought, else all that follows it."""
    answer = after_thought(text)
    tagged = _ANSWER.findall(answer)
    return str(tagged[-1]).strip() if tagged else answer


def program(text: str) -> str:
    """Return the last Python block after the thought, else all that follows the thought."""
    answer = after_thought(text)
    blocks = _PROGRAM.findall(answer)
    return str(blocks[-1]) if blocks else answer


def math_answer(text: str) -> str:
    r"""Return the line after the thought with the last complete `\boxed{..}`, else the last line.

    The whole line, so that boxes side by side are one answer with several parts, and a guess in
    each of several boxes is not right because one of them is.
    """
    answer = after_thought(text)
    if (box := _last_box(answer)) is not None:
        start, end = box
        line_end = answer.find("\n", end)
        return answer[
            answer.rfind("\n", 0, start) + 1 : line_end if line_end >= 0 else None
        ].strip()
    lines = [line for line in answer.splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""


def _last_box(text: str) -> tuple[int, int] | None:
    """Return where the last box begins and where its braces end, if they balance."""
    before = len(text)
    while True:
        start, box = max((text.rfind(box, 0, before), box) for box in _BOXES)
        if start < 0:
            return None
        end = _closing_brace(text, start + len(box))
        if end is not None:
            return start, end
        before = start


def _closing_brace(text: str, position: int) -> int | None:
    """Return the partner of the brace that stands, after spaces, at `position`."""
    rest = text[position:].lstrip()
    if not rest.startswith("{"):
        return None
    depth = 0
    for match in _BRACE.finditer(text, len(text) - len(rest)):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return match.end()
    return None
