"""Finds questions whose form rules out a fair check of the answer (stdlib only).

MiniMax-M1 (arXiv 2506.13585, page 9) drops proofs, questions of several parts and yes-or-no
questions from mathematics, and rewrites multiple choice, where a guess is often right.
"""

import re
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import TypeAlias

from cispo.data.screening.removal import RemovalReason

_Finder: TypeAlias = Callable[[str, str], str | None]
"""Takes question and answer, and returns what gives the form away, or None."""

_START = r"(?:^|[.!?;:,\n]|\$|\\\]|\\\))\s*(?:then |and |hence |now )?"
_PROOF = re.compile(
    rf"{_START}(?:prove|disprove|show that|demonstrate that)\b[^.?!]{{0,40}}"
    r"|\b(?:prove|and show) that\b[^.?!]{0,40}",
    re.IGNORECASE,
)
_OPTION = re.compile(
    r"(?<![A-Za-z0-9\\])\(([A-Z])\)"  # (A) anywhere but in f(A)
    r"|(?<=\s)([A-Z])\)\s"
    r"|(?:^|\n|quad|[ \t]{2})\s*([A-Z])[.:]\s"
)
_OPTIONS_IN_A_ROW = 3
_LETTER = re.compile(r"\bletter of (?:the|each) correct\b", re.IGNORECASE)
_PART = re.compile(
    r"(?<!\S)\(([a-h]|[ivx]{1,4}|[1-9])\)(?=[\s$])|^[ \t]*([a-h]|[ivx]{1,4}|[1-9])[.)]\s",
    re.MULTILINE,
)
_PART_SERIES = (("a", "b"), ("i", "ii"), ("1", "2"))
_ASKS = re.compile(
    r"\?|^\W*(?:find|determine|compute|calculate|evaluate|express|solve|give|write|sketch|state"
    r"|explain|show|prove|factor|simplify)\b",
    re.IGNORECASE,
)
_BINARY = frozenset({"yes", "no", "true", "false"})
_BARE_ANSWER = re.compile(r"\\text\w*|[^a-z]")


def _multiple_choice(question: str, answer: str) -> str | None:
    """Options A, B and C that follow one another, or that a letter is asked for."""
    if asked := _LETTER.search(question):
        return asked[0]
    options = [(next(filter(None, found.groups())), found) for found in _OPTION.finditer(question)]
    for number, (letter, first) in enumerate(options):
        if letter != "A":
            continue
        wanted = ord("B")
        for later, found in options[number + 1 :]:
            wanted += later == chr(wanted)
            if wanted == ord("A") + _OPTIONS_IN_A_ROW:
                return question[first.start() : found.end()].strip()
    return None


def _proof(question: str, answer: str) -> str | None:
    found = _PROOF.search(question)
    return found[0].strip() if found else None


def _multi_part(question: str, answer: str) -> str | None:
    """Parts (a) and (b), (i) and (ii), or (1) and (2), of which the first asks something.

    Conditions are numbered in the same way, and ask nothing.
    """
    marks = [(found[1] or found[2], found) for found in _PART.finditer(question)]
    for (first, begin), (second, end) in pairwise(marks):
        part = question[begin.end() : end.start()]
        if (first, second) in _PART_SERIES and _ASKS.search(part):
            return question[begin.start() : end.end()].strip()
    return None


def _yes_no(question: str, answer: str) -> str | None:
    said = _BARE_ANSWER.sub("", answer.casefold())
    return answer if said in _BINARY else None


FORMS: Mapping[RemovalReason, _Finder] = {
    RemovalReason.MULTIPLE_CHOICE: _multiple_choice,
    RemovalReason.PROOF: _proof,
    RemovalReason.MULTI_PART: _multi_part,
    RemovalReason.YES_NO: _yes_no,
}
"""What finds each form."""
