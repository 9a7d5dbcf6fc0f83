"""Mathematical equality by math-verify; runs only inside the killable grader process."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import sympy  # type: ignore[import-untyped]
from math_verify import parse, verify

from rewards.extract import boxed
from rewards.notation import ascending, latex, number, plain, without_percent
from rewards.truth import BadTruthError, truth_field
from rewards.wording import choice, chosen, numeral, squashed, without_label, words

MAX_ANSWER_CHARACTERS = 4096
_DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+")
"""A number or a list of two; it is read as both."""

_PLAIN_NUMBER = re.compile(r"-?(?:[1-9]\d{0,2}(?:,\d{3})+|[1-9]\d*|0)(?:\.\d+)?")
_LONGEST_NAME = 64
"""Characters of words that may be one name, which math-verify reads as a product of letters."""

_LEADS_TO = re.compile(r"\b(?:is|are|be|equals)\b:?|:\s|####")
_KNOWN_NAME = re.compile(
    r"\\(?:begin|end|text|mbox|mathrm)\s*\{[^{}]*\}|\\[A-Za-z]+|\b(?:pi|sqrt|sin|cos|tan|log|exp)\b"
)
_LONG_WORD = re.compile(r"[^\W\d_]{3}")
_LAST_MARKS = re.compile(r"(?<!\\)[.,;\s]+\Z")


@dataclass(frozen=True, slots=True)
class _Reading:
    """What a text says.

    Attributes:
        content: The answer as it is written, without its box.
        values: What math-verify makes of it: expressions, or text where it could not.
        is_percentage: Whether it had a sign of percentage, which the values leave out.
    """

    content: str
    values: tuple[Any, ...]
    is_percentage: bool = False


def grade_math(answer: str, truth: Mapping[str, Any]) -> Mapping[str, float]:
    """Return `correct`: whether an extracted answer equals the reference.

    Args:
        answer: A line with a box, or a line.
        truth: `{"answer": reference}`, or a list of references of which any will do.

    Raises:
        BadTruthError: The reference cannot be read.
    """
    listed = truth.get("answer")
    references = listed if isinstance(listed, list) else [truth_field(truth, "answer", str)]
    if not references or not all(isinstance(reference, str) for reference in references):
        raise BadTruthError(f"truth['answer'] is {listed!r}, not texts")
    for reference in references:
        _reference(reference)
    answer = plain(answer)
    if not answer.strip() or len(answer) > MAX_ANSWER_CHARACTERS:
        return {"correct": 0.0}
    return {"correct": float(_is_right(answer, tuple(references)))}


@lru_cache(maxsize=1024)  # rollouts of a group often answer alike
def _is_right(answer: str, references: tuple[str, ...]) -> bool:
    wanted = [_reference(reference) for reference in references]
    written = squashed(_written(answer))
    if written and written in (squashed(reference.content) for reference in wanted):
        return True
    given = _read(answer)
    return any(_agree(given, reference) for reference in wanted)


@lru_cache(maxsize=4096)
def _reference(text: str) -> _Reading:
    reading = _read(plain(text))
    if not reading.values:
        raise BadTruthError(f"the reference answer {text!r} cannot be parsed")
    return reading


def _agree(given: _Reading, wanted: _Reading) -> bool:
    letter = choice(wanted.content)
    if letter is not None:
        return chosen(given.content) == letter
    said = words(wanted.content)
    if said is not None and words(given.content) == said:
        return True
    numerals = numeral(wanted.content), numeral(given.content)
    if None not in numerals:
        return numerals[0] == numerals[1]
    if _verify(given, wanted):
        return True
    unlabelled = without_label(given.content)
    return unlabelled != given.content and _verify(_content(unlabelled), wanted)


def _verify(given: _Reading, wanted: _Reading) -> bool:
    ours, theirs = given.values, wanted.values
    if given.is_percentage and not wanted.is_percentage:
        ours += _hundredths(ours)
    if wanted.is_percentage and not given.is_percentage:
        theirs += _hundredths(theirs)
    # The grader process has its own deadline; math-verify's would need signals.
    return bool(
        verify(list(theirs), list(ours), timeout_seconds=None, allow_set_relation_comp=True)
    )


def _hundredths(values: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(value / 100 for value in values if isinstance(value, sympy.Expr))


def _read(text: str) -> _Reading:
    """Read boxes, mathematics between dollars, bare mathematics, or prose, in this order."""
    boxes = boxed(text)
    part = _written(text)
    if len(boxes) == 1:
        return _content(part)
    if boxes or any(mark in text for mark in ("$", r"\(", r"\[")):
        bare, is_percentage = without_percent(latex(text))
        return _Reading(part, _parse(bare), is_percentage)
    if not _LONG_WORD.search(_KNOWN_NAME.sub("", part)):
        reading = _content(part)
        if any(not isinstance(value, str) for value in reading.values):
            return reading
    bare, is_percentage = without_percent(text)
    prose = _parse(bare)
    is_prose = bool(prose) or len(part) > _LONGEST_NAME
    return _Reading(part, prose, is_percentage) if is_prose else _content(part)


def _written(text: str) -> str:
    """Return the answer as it is written: what a single box holds, or what the text leads to."""
    boxes = boxed(text)
    if len(boxes) != 1:
        boxes = _LEADS_TO.split(_LAST_MARKS.sub("", text))
    return _LAST_MARKS.sub("", boxes[-1].strip("*`$ "))


def _content(content: str) -> _Reading:
    """Read what stands in a box, or could."""
    text, is_percentage = without_percent(latex(content))
    text = ascending(number(text))
    if _PLAIN_NUMBER.fullmatch(text):
        return _Reading(content, (sympy.Number(text.replace(",", "")), text), is_percentage)
    if text.count(r"\pm") == 1 and "," not in text:
        text = ",".join(text.replace(r"\pm", sign) for sign in "+-")
    values = _parse(rf"\boxed{{{text}}}") if text else ()
    if _DECIMAL_COMMA.fullmatch(text):
        values += _parse(text)
    return _Reading(content, values, is_percentage)


def _parse(text: str) -> tuple[Any, ...]:
    return tuple(_with_imaginary_unit(value) for value in parse(text, parsing_timeout=None))


def _with_imaginary_unit(value: Any) -> Any:
    if not isinstance(value, sympy.Expr):
        return value
    units = [symbol for symbol in value.free_symbols if str(symbol) == "i"]
    return value.subs(units[0], sympy.I) if units else value
