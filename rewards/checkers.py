"""How a printed answer is compared with the expected one (stdlib only)."""

import math
from collections.abc import Callable
from typing import Literal, TypeAlias, get_args

Checker: TypeAlias = Callable[[str, str, float], bool]
"""Takes what was printed, what was expected, and the tolerance of floats."""

CheckerName = Literal["lines", "tokens", "floats", "unordered_lines", "case_insensitive"]


def checker(name: str) -> Checker:
    """Return a comparison by its name.

    `lines` forgives spaces at line ends and empty lines at the end; `tokens` any white space;
    `floats` also takes numbers within the tolerance, absolutely or relatively; `unordered_lines`
    any order of lines; `case_insensitive` is `tokens` in any case.

    Raises:
        ValueError: There is no such comparison.
    """
    if name not in _CHECKERS:
        raise ValueError(f"checker {name!r}: choose {', '.join(_CHECKERS)}")
    return _CHECKERS[name]


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split("\n")]


def _is_near(printed: str, expected: str, tolerance: float) -> bool:
    if printed == expected:
        return True
    if "_" in printed:  # which Python reads in a number, and nobody else
        return False
    try:
        value, wanted = float(printed), float(expected)
    except ValueError:
        return False
    return math.isclose(value, wanted, rel_tol=tolerance, abs_tol=tolerance)


def _floats(printed: str, expected: str, tolerance: float) -> bool:
    ours, theirs = printed.split(), expected.split()
    pairs = zip(ours, theirs, strict=False)
    return len(ours) == len(theirs) and all(_is_near(o, t, tolerance) for o, t in pairs)


_CHECKERS: dict[str, Checker] = {
    "lines": lambda printed, expected, _: _lines(printed) == _lines(expected),
    "tokens": lambda printed, expected, _: printed.split() == expected.split(),
    "floats": _floats,
    "unordered_lines": lambda printed, expected, _: (
        sorted(_lines(printed)) == sorted(_lines(expected))
    ),
    "case_insensitive": lambda printed, expected, _: (
        printed.casefold().split() == expected.casefold().split()
    ),
}
assert tuple(_CHECKERS) == get_args(CheckerName)
