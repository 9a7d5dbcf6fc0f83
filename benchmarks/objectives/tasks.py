"""Three tasks of a line each: two with a rare first token that decides everything, and a chain.

A step adds a digit, mod 10. Steps and values have tokens of their own for each place of a chain, so
that a small model learns to look them up in a minute.

* The fork: which x in 0..7 do two steps take to t? In a small share of its answers the demonstrator
  writes both steps for all eight candidates; in the others it guesses at once. Its first token
  tells which: the paper's fork token, of low probability.
* The chain: what do four steps make of a digit? The demonstrator slips at any step. No token
  decides.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

PLACES = 4
CANDIDATES = 8
_MARKS = 10 * (2 * PLACES + 1)
FORK, CHAIN, WORK, GUESS, END = range(_MARKS, _MARKS + 5)
VOCABULARY = 96
"""A multiple of 16; 95 are used."""

Tokens = list[int]


def value(place: int, v: int) -> int:
    """The token of digit v after `place` steps."""
    return 10 * place + v


def step(place: int, b: int) -> int:
    """The token of "add b", which leads to `place`."""
    return 10 * (PLACES + place) + b


@dataclass(frozen=True, slots=True)
class Problem:
    """What is asked.

    Attributes:
        prompt: Tokens.
        answer: The token before the end of a right answer.
    """

    prompt: Tokens
    answer: int


class Family(Protocol):
    """A kind of problem with somebody who demonstrates it."""

    @property
    def max_new_tokens(self) -> int:
        """Tokens that an answer may have."""

    def problem(self, draw: Random) -> Problem:
        """Draw a problem."""

    def demonstration(self, problem: Problem, draw: Random) -> Tokens:
        """Answer as the demonstrator does, up to the end."""


@dataclass(frozen=True, slots=True)
class Fork:
    """See the module.

    Attributes:
        worked_fraction: Share of demonstrations that go the long way.
        max_new_tokens: Room for a few tokens more than the long way takes.
    """

    worked_fraction: float
    max_new_tokens: int = 3 * CANDIDATES + 8

    def problem(self, draw: Random) -> Problem:
        """Draw two steps and the solution."""
        first, second, x = draw.randrange(10), draw.randrange(10), draw.randrange(CANDIDATES)
        target = (x + first + second) % 10
        return Problem([FORK, step(1, first), step(2, second), value(2, target)], value(0, x))

    def demonstration(self, problem: Problem, draw: Random) -> Tokens:
        """Try all candidates and take the one that meets the target, or guess."""
        if draw.random() >= self.worked_fraction:
            return [GUESS, value(0, draw.randrange(CANDIDATES)), END]
        first, second = (token % 10 for token in problem.prompt[1:3])
        worked = [WORK]
        for x in range(CANDIDATES):
            u = (x + first) % 10
            worked += [value(1, u), value(2, (u + second) % 10), value(0, x)]
        return [*worked, problem.prompt[-1], problem.answer, END]


@dataclass(frozen=True, slots=True)
class Chain:
    """See the module.

    Attributes:
        slip: Probability that a step's result is another digit, with which the chain goes on.
        max_new_tokens: Room for a few tokens more than the steps.
    """

    slip: float
    max_new_tokens: int = PLACES + 4

    def problem(self, draw: Random) -> Problem:
        """Draw a digit and four steps."""
        start, *added = (draw.randrange(10) for _ in range(PLACES + 1))
        steps = [step(place, b) for place, b in enumerate(added, start=1)]
        return Problem([CHAIN, value(0, start), *steps], value(PLACES, (start + sum(added)) % 10))

    def demonstration(self, problem: Problem, draw: Random) -> Tokens:
        """Write the result of each step, with slips."""
        v, written = problem.prompt[1] % 10, []
        for place, token in enumerate(problem.prompt[2:], start=1):
            v = (v + token % 10) % 10
            if draw.random() < self.slip:
                v = (v + draw.randrange(1, 10)) % 10
            written.append(value(place, v))
        return [*written, END]


FAMILIES: dict[str, Family] = {"t15": Fork(0.15), "t04": Fork(0.04), "c4": Chain(0.2)}
"""The long way is taken in 15% or 4% of the demonstrations; 0.8^4 is 0.41 of the chains."""

SOLVED: tuple[Family, ...] = (Fork(1.0), Chain(0.0))
"""Demonstrators without fault, from whom the arithmetic is learned first."""


def is_right(problem: Problem, answer: Sequence[int]) -> bool:
    """Whether an answer has ended, with the right token before its end."""
    return list(answer[-2:]) == [problem.answer, END]
