"""Small programming tasks that this project generates: read integers, print an expression.

Each task asks in words for a program that reads two or three integers and prints a number built
from them by two
operations. The answer is a program; it is right when it prints what the hidden tests expect.
"""

from collections.abc import Sequence
from random import Random

from cispo.data.answer_format import with_thought
from cispo.data.operations import OPERATIONS, Operation
from cispo.types import Message, Task

_AFTERWARDS: Sequence[Operation] = (
    Operation("plus {1}", "{0}+{1}", lambda a, b: a + b),
    Operation("minus {1}", "{0}-{1}", lambda a, b: a - b),
    Operation("times {1}", "{1}*({0})", lambda a, b: a * b),
)
_VARIABLES = ("a", "b", "c")
_NUM_TESTS = 4


class CodeFamily:
    """A table of program-writing tasks; row i depends on `seed + i` alone."""

    name = "write_program"

    def __init__(self, size: int, seed: int) -> None:
        self._size = size
        self._seed = seed

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, row: int) -> Task:
        rng = Random(f"{self.name}/{self._seed + row}")
        names = list(_VARIABLES[: rng.choice((2, 3))])
        first, second = rng.sample(range(len(names)), 2)
        inner, outer, constant = rng.choice(OPERATIONS), rng.choice(_AFTERWARDS), rng.randint(1, 9)
        chosen = names[first], names[second]
        words = f"{inner.words.format(*chosen)}, {outer.words.format('', constant)}"
        code = outer.code.format(inner.code.format(*chosen), constant)

        def expected(values: Sequence[int]) -> int:
            return outer.value(inner.value(values[first], values[second]), constant)

        inputs = [[rng.randint(-20, 20) for _ in names] for _ in range(_NUM_TESTS)]
        return Task(
            task_id=f"{self.name}/{self._seed + row}",
            messages=(Message(role="user", content=_question(names, words)),),
            verifier="code",
            truth={
                "tests": [
                    {"stdin": " ".join(map(str, values)) + "\n", "stdout": f"{expected(values)}\n"}
                    for values in inputs
                ]
            },
            source=self.name,
            solution=_solution(names, code),
        )


def _question(names: Sequence[str], words: str) -> str:
    listed = ", ".join(names[:-1]) + " and " + names[-1]
    return f"Write a Python program that reads integers {listed} and prints {words}."


def _solution(names: Sequence[str], code: str) -> str:
    program = f"{','.join(names)}=map(int,input().split())\nprint({code})"
    return with_thought([code], f"```python\n{program}\n```")
