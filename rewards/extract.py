"""Where the answer lies in a text; linear in its length, for it may be hostile (stdlib only)."""

import re
import textwrap
from collections.abc import Iterator

_THOUGHT_OPENS, _THOUGHT_CLOSES = "<think>", "</think>"
_ANSWER_OPENS, _ANSWER_CLOSES = "<answer>", "</answer>"
_LONG_LINE = 2048
_FENCED = re.compile(
    r"^[ \t]*(?P<fence>```|~~~)[ \t]*(?P<language>\w*)[^\n]*\n"
    r"(?P<source>.*?)(?:^[ \t]*(?P=fence)[`~]*[ \t]*$|\Z)",
    re.DOTALL | re.MULTILINE,
)
_PYTHON = ("python", "python3", "py", "py3")
_BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s*\{")
_BRACE = re.compile(_BOX.pattern + r"|\\.|[{}]", re.DOTALL)  # an escaped one is a character
_MARKER = re.compile(r"\banswer\b[^.:\n]{0,60}?(?:\bis\b|[:=])[:*_ ]*|####:?", re.IGNORECASE)
_DISPLAY_ENDS = {r"\]": r"\[", "$$": "$$"}
_MATHEMATICAL = re.compile(r"[\d$\\]")


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
    """Return the last Python block after the thought, else the last block without a language.

    Where there is neither, it is all that follows the thought, or the last `<answer>..</answer>`.
    """
    answer = after_thought(text).replace("\r\n", "\n")
    blocks = list(_FENCED.finditer(answer))
    python = [block for block in blocks if block["language"].lower() in _PYTHON]
    if found := python or [block for block in blocks if not block["language"]]:
        source = textwrap.dedent(found[-1]["source"]).rstrip()
        return source.removesuffix(found[-1]["fence"])
    tagged = _last_tagged(answer)
    return answer if tagged is None else tagged


def math_answer(text: str) -> str:
    r"""Return the part of a text, after the thought, that holds the answer to a question.

    That is, whichever is found first: the last `<answer>..</answer>`; the line with the last
    complete `\boxed{..}`; what follows the last "answer is", "answer:" or "####"; the last display
    of mathematics, if nothing follows it; the last line with a number or mathematics; the last one.

    A whole line, so that boxes side by side are one answer with several parts, and a guess in each
    of several boxes is not right because one of them is; the box alone where the line is very long.
    """
    answer = after_thought(text)
    tagged = _last_tagged(answer)
    if tagged is not None:
        answer = tagged
    if (box := _last_box(answer)) is not None:
        start, end = box
        line_end = answer.find("\n", end)
        line = answer[answer.rfind("\n", 0, start) + 1 : line_end if line_end >= 0 else None]
        return line.strip() if len(line) <= _LONG_LINE else answer[start:end]
    if (cut_off := _BOX.search(answer)) is not None:
        answer = answer[: cut_off.start()]
    markers = list(_MARKER.finditer(answer))
    if markers and answer[markers[-1].end() :].strip():
        return answer[markers[-1].start() :][:_LONG_LINE].strip()
    tail = answer[-_LONG_LINE:]
    lines = [line.strip() for line in tail.splitlines() if line.strip()]
    if not lines:
        return ""
    if opens := _DISPLAY_ENDS.get(lines[-1][-2:]):
        return tail[max(tail.rfind(opens, 0, tail.rstrip().rfind(lines[-1][-2:])), 0) :].strip()
    return next((line for line in reversed(lines) if _MATHEMATICAL.search(line)), lines[-1])


def boxed(text: str) -> list[str]:
    r"""Return the contents of the complete boxes that lie in no other.

    Of a box that ends with another box, the content is that of the inner one.
    """
    boxes, contents, position = sorted(_boxes(text)), [], 0
    for start, end in boxes:
        if start >= position:
            position = end
            inner = [first for first, last in boxes if first > start and last == end - 1]
            whole = text[inner[-1] : end - 1] if inner else text[start:end]
            contents.append(_BOX.sub("{", whole)[1:-1].strip())
    return contents


def _last_tagged(answer: str) -> str | None:
    before, closes, _ = answer.rpartition(_ANSWER_CLOSES)
    _, opens, tagged = before.rpartition(_ANSWER_OPENS)
    return tagged.strip() if closes and opens else None


def _last_box(text: str) -> tuple[int, int] | None:
    return max(_boxes(text), default=None)


def _boxes(text: str) -> Iterator[tuple[int, int]]:
    """Yield where each complete box begins and ends, in one pass over the text."""
    open_braces: list[int | None] = []  # where a box begins, or None for a plain brace
    for match in _BRACE.finditer(text):
        if match[0].endswith("{") and match[0] != "\\{":
            open_braces.append(None if match[0] == "{" else match.start())
        elif match[0] == "}" and open_braces and (start := open_braces.pop()) is not None:
            yield start, match.end()
