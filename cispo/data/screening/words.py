"""The words of a problem, the same however it is set (stdlib only)."""

import re
import unicodedata
from collections.abc import Sequence

_SETTING = re.compile(
    r"\\(?:left|right|big|Big|bigg|Bigg|displaystyle|text|textbf|textit|mathrm|mathbf|operatorname"
    r"|quad|qquad|begin|end)(?![A-Za-z])\*?|\\[,;:! ()\[\]]"
)
_FRACTION = re.compile(r"\\[dt]frac(?![A-Za-z])")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_WORD = re.compile(
    r"\d+(?:\.\d+)?|[\u3040-\u30ff\u3400-\u9fff]|[^\W\d_]+|[+\-*/=<>^]"  # one ideograph is a word
)


def words(text: str) -> list[str]:
    """Split into words, numbers and operators.

    Case, accents of typesetting, punctuation and LaTeX's commands of layout make no difference;
    numbers and the signs `+ - * / = < > ^` do.
    """
    plain = unicodedata.normalize("NFKC", text)
    plain = _SETTING.sub(" ", plain)
    plain = _FRACTION.sub(r"\\frac", plain)
    plain = _THOUSANDS.sub("", plain)
    return _WORD.findall(plain.casefold())


def runs(of: Sequence[str], length: int) -> list[tuple[str, ...]]:
    """All runs of `length` words, in order; none where there are fewer words."""
    return [tuple(of[i : i + length]) for i in range(len(of) - length + 1)]
