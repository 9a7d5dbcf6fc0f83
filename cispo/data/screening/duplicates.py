"""Finds problems that are the same, or nearly, by the runs of words that they share (stdlib only).

The Jaccard similarity of two sets of runs is |both| / |either|. All pairs above a bound are found,
not a sample of them as with MinHash: two sets of similarity t or more must share one of their
|x| - ceil(t |x|) + 1 rarest members (Bayardo, Ma and Srikant, Scaling up all pairs similarity
search, 2007), so that only those are looked up.

A problem with other numbers in the same sentence is similar and no repetition. Near repetitions
therefore have the same answer: of 7,476 problems of MATH 123 are similar to an earlier one by 0.7
or more, 11 of them have its answer too, and 6 of those are the same problem by eye.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import TypeAlias

from cispo.data.screening.removal import RemovalReason
from cispo.data.screening.words import runs

_Run: TypeAlias = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicate:
    """A problem that repeats an earlier one.

    Attributes:
        index: The repetition.
        of: The earlier problem, which is itself none.
        reason: `DUPLICATE` where all words are the same, `CONTRADICTION` where the answer is
            another one besides, else `NEAR_DUPLICATE`.
        similarity: Jaccard similarity of the sets of runs.
    """

    index: int
    of: int
    reason: RemovalReason
    similarity: float


def find_duplicates(
    problems: Sequence[Sequence[str]],
    answers: Sequence[Hashable],
    *,
    similarity: float,
    run_words: int,
) -> list[Duplicate]:
    """Find the problems that repeat an earlier one, in order.

    Args:
        problems: Words of each.
        answers: Answer of each, in a form in which equal answers are equal.
        similarity: Smallest Jaccard similarity of near repetitions, in (0, 1].
        run_words: Words of a run; a problem of fewer repeats only the same words.
    """
    sets = [frozenset(runs(words, run_words)) for words in problems]
    frequency = Counter(run for one in sets for run in one)
    first: dict[tuple[str, ...], int] = {}
    by_run: defaultdict[_Run, list[int]] = defaultdict(list)
    found: list[Duplicate] = []
    for index, (words, ours) in enumerate(zip(problems, sets, strict=True)):
        same = first.setdefault(tuple(words), index)
        if same != index:
            agree = answers[same] == answers[index]
            reason = RemovalReason.DUPLICATE if agree else RemovalReason.CONTRADICTION
            found.append(Duplicate(index=index, of=same, reason=reason, similarity=1.0))
            continue
        rarest = sorted(ours, key=lambda run: (frequency[run], run))
        rarest = rarest[: len(ours) - ceil(similarity * len(ours)) + 1]
        candidates = {other for run in rarest for other in by_run[run]}
        near = [
            (_jaccard(ours, sets[other]), -other)
            for other in candidates
            if answers[other] == answers[index]
        ]
        best, negated = max(near, default=(0.0, 0))
        if best >= similarity:
            reason = RemovalReason.NEAR_DUPLICATE
            found.append(Duplicate(index=index, of=-negated, reason=reason, similarity=best))
            continue
        for run in rarest:
            by_run[run].append(index)
    return found


def _jaccard(first: frozenset[_Run], second: frozenset[_Run]) -> float:
    both = len(first & second)
    return both / (len(first) + len(second) - both)
