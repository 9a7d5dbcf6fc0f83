"""Where the answer lies in a text; linear in its length, for it may be hostile (stdlib only)."""

import re

_THOUGHT_OPENS, _THOUGHT_CLOSES = "<think>", "</think>"
_ANSWER_OPENS, _ANSWER_CLOSES = "<answer>", "</answer>"
_LONG_LINE = 2048
_PROGRAM = re.compile(r"```(?:python3?|py)[ \t]*\n(.*?)(?:\n?```|\Z)", re.DOTALL | re.IGNORECASE)
_BRACE = re.compile(r"\\(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)  # an escaped one is a character


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
    tagged = _last_tagged(answer)
    return answer if tagged is None else tagged


def program(text: str) -> str:
    """Return the last Python block after the thought, else all that follows the thought."""
    answer = after_thought(text)
    blocks = _PROGRAM.findall(answer)
    return str(blocks[-1]) if blocks else answer


def math_answer(text: str) -> str:
    r"""Return the line after the thought with the last complete `\boxed{..}`, else the last line.

    The whole line, so that boxes side by side are one answer with several parts, and a guess in
    each of several boxes is not right because one of them is; the box alone where the line is very
    long. Where there is an `<answer>..</answer>`, only the last one is looked at, boxed if it is
    not.
    """
    answer = after_thought(text)
    if (tagged := _last_tagged(answer)) is not None:
        return tagged if _last_box(tagged) else rf"\boxed{{{tagged}}}" if tagged else ""
    if (box := _last_box(answer)) is not None:
        start, end = box
        line_end = answer.find("\n", end)
        line = answer[answer.rfind("\n", 0, start) + 1 : line_end if line_end >= 0 else None]
        return line.strip() if len(line) <= _LONG_LINE else answer[start:end]
    lines = [line for line in answer.splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""


def _last_tagged(answer: str) -> str | None:
    before, closes, _ = answer.rpartition(_ANSWER_CLOSES)
    _, opens, tagged = before.rpartition(_ANSWER_OPENS)
    return tagged.strip() if closes and opens else None


def _last_box(text: str) -> tuple[int, int] | None:
    """Return where the last box begins and where its braces end, in one pass over the text."""
    last: tuple[int, int] | None = None
    open_braces: list[int | None] = []  # where a box begins, or None for a plain brace
    for match in _BRACE.finditer(text):
        if match[0].endswith("{") and match[0] != "\\{":
            open_braces.append(None if match[0] == "{" else match.start())
        elif match[0] == "}" and open_braces:
            start = open_braces.pop()
            if start is not None and (last is None or start > last[0]):
                last = start, match.end()
    return last
