"""What k answers to one problem are worth, estimated from n of them without bias (stdlib only)."""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from fractions import Fraction

from cispo.evaluate import pass_at_k

__all__ = ["majority_at_k", "pass_at_k", "powers_of_two_to"]


def powers_of_two_to(size: int) -> list[int]:
    """Return the k for which n = `size` answers are described: 1, 2, 4, .. and n itself."""
    return sorted({size, *(2**power for power in range(size.bit_length()) if 2**power <= size)})


def majority_at_k(answers: Sequence[str | None], is_right: Sequence[float], k: int) -> float:
    """Estimate how often the most frequent of k answers is right: maj@k, or self-consistency.

    The mean over all subsets of k of the n answers, by counting instead of listing them. Of
    answers that are equally frequent each wins with the same probability. None stands for a
    rollout from which no answer could be extracted: it is drawn like any other and votes for
    nothing; where nobody votes the majority is wrong.

    Args:
        answers: [n] extracted answers.
        is_right: [n] in 0..1; of rollouts that answer alike the mean counts.
        k: Answers that vote, 1 <= k <= n.

    Raises:
        ValueError: There are fewer than k answers.
    """
    if not 1 <= k <= len(answers):
        raise ValueError(f"maj@{k} needs at least {k} answers, got {len(answers)}")
    rightness: defaultdict[str, list[float]] = defaultdict(list)
    for answer, right in zip(answers, is_right, strict=True):
        if answer is not None:
            rightness[answer].append(right)
    counts = Counter(len(rights) for rights in rightness.values())
    num_silent = sum(answer is None for answer in answers)
    subsets = math.comb(len(answers), k)
    value = 0.0
    for count in counts:
        wins = _winning_subsets(count, counts - Counter([count]), num_silent, k) / subsets
        sums = [math.fsum(r) / count for r in rightness.values() if len(r) == count]
        value += float(wins) * math.fsum(sums)
    return value


def _winning_subsets(count: int, others: Mapping[int, int], num_silent: int, k: int) -> Fraction:
    """Count the subsets of k in which one answer wins, a draw among j as 1 / j.

    Args:
        count: How often that answer was given.
        others: Of the other answers, how many were given how often.
        num_silent: Rollouts without an answer.
        k: Size of a subset.
    """
    won = Fraction(0)
    for votes in range(1, min(count, k) + 1):
        # ways[drawn, draws]: to draw so many of the rollouts looked at so far, none with more
        # votes than ours and `draws` answers with as many.
        ways = {(drawn, 0): math.comb(num_silent, drawn) for drawn in range(num_silent + 1)}
        for other, number in others.items():
            for _ in range(number):
                ways = _with_answer(ways, other, votes, k - votes)
        for (drawn, draws), number in ways.items():
            if drawn == k - votes:
                won += Fraction(math.comb(count, votes) * number, draws + 1)
    return won


def _with_answer(
    ways: Mapping[tuple[int, int], int], count: int, most: int, room: int
) -> dict[tuple[int, int], int]:
    extended: defaultdict[tuple[int, int], int] = defaultdict(int)
    for (drawn, draws), number in ways.items():
        for votes in range(min(count, most, room - drawn) + 1):
            state = drawn + votes, draws + (votes == most)
            extended[state] += number * math.comb(count, votes)
    return extended
