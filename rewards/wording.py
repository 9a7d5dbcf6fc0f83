r"""Answers that are words, letters of a choice or numerals of a base, compared as such."""

import re

_WRAPPED = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathit|mbox)\s*\{([^{}]*)\}")
_LAYOUT = re.compile(r"\\(?:left|right|displaystyle|quad|[dt]?frac(?=\W|\d)|[,!;: ])|[\s{}$*~]")
_LETTER = re.compile(r"\(?([A-H])\)?\.?")
_LABEL = re.compile(r"\(([A-H])\)[.:]?|([A-H])(?:[.:)]|\Z)")
_ANY_LABEL = re.compile(r"\(([A-H])\)|(?<![A-Za-z\\])([A-H])(?![A-Za-z'’])")
_WORDS = re.compile(r"[^\W\d_][^\W\d_' -]*(?:[ '-][^\W\d_]+)*", re.UNICODE)
_NUMERAL = re.compile(r"([0-9A-Z]{1,64})_\{?(\d{1,2})\}?")


def unwrapped(text: str) -> str:
    r"""Return the text without `\text{..}`, `\mathbf{..}` and the like around parts of it."""
    return _WRAPPED.sub(r"\1", text).replace("**", "").strip()


def squashed(text: str) -> str:
    """Return the text without spaces, braces and what only concerns the layout."""
    return _LAYOUT.sub(lambda match: "\\frac" if "frac" in match[0] else "", unwrapped(text))


def choice(text: str) -> str | None:
    """Return the letter, A to H, where the text is a letter of a choice and nothing else."""
    match = _LETTER.fullmatch(unwrapped(text))
    return str(match[1]) if match else None


def chosen(text: str) -> str | None:
    """Return the letter that a text chooses: `B`, `(B) 12`, `B. 12`, `so it is B`, else None.

    A text that names several letters chooses none, unless the first is a label.
    """
    text = unwrapped(text).strip(" .$")
    named = {first or second for first, second in _ANY_LABEL.findall(text)}
    if len(named) == 1:
        return str(named.pop())
    label = _LABEL.match(text)
    rest = text[label.end() :] if label else ""
    is_labelled = bool(rest) and not re.search(r"\([A-H]\)|\b(?:or|and)\b|,\s*[A-H]\b", rest)
    return str(label[1] or label[2]) if label and is_labelled else None


def without_label(text: str) -> str:
    """Return the text without a choice's label, `(B) ` or `B. `, in front of something else."""
    bare = unwrapped(text)
    label = _LABEL.match(bare)
    return bare[label.end() :].strip() if label and bare[label.end() :].strip() else text


def words(text: str) -> str | None:
    """Return the words in lower case where the text is one or more words, else None."""
    text = " ".join(unwrapped(text).strip(" .$!").split())
    is_wordy = _WORDS.fullmatch(text) and any(len(word) > 2 for word in re.split(r"[ '-]", text))
    return text.casefold() if is_wordy else None


def numeral(text: str) -> int | None:
    """Return the value of a numeral that names its base, as `101_2`, else None."""
    match = _NUMERAL.fullmatch(squashed(text))
    try:
        return int(match[1], int(match[2])) if match else None
    except ValueError:
        return None
