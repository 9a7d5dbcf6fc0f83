"""What generated tasks compute: operations on two integers, in words and in Python."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation.

    Attributes:
        words: Its English, with `{0}` and `{1}` for the operands.
        code: Its Python, the same.
        value: Computes it.
    """

    words: str
    code: str
    value: Callable[[int, int], int]


OPERATIONS: Sequence[Operation] = (
    Operation("the sum of {0} and {1}", "{0}+{1}", lambda a, b: a + b),
    Operation("{0} minus {1}", "{0}-{1}", lambda a, b: a - b),
    Operation("the product of {0} and {1}", "{0}*{1}", lambda a, b: a * b),
    Operation("the larger of {0} and {1}", "max({0},{1})", max),
    Operation("the smaller of {0} and {1}", "min({0},{1})", min),
    Operation("the distance between {0} and {1}", "abs({0}-{1})", lambda a, b: abs(a - b)),
)
