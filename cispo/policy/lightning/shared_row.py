"""A packed row that several ranks compute together, each of them one contiguous piece of it."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from cispo.policy.ranks import Ranks


@dataclass(frozen=True, slots=True, eq=False)
class SharedRow:
    """T tokens cut into R pieces of nearly equal length, wherever sequences begin and end.

    Attributes:
        ranks: Who computes the pieces, in order.
        starts: [S + 1] boundaries of the sequences.
        cuts: [R + 1] boundaries of the pieces. Some are empty where T < R.
    """

    ranks: Ranks
    starts: tuple[int, ...]
    cuts: tuple[int, ...]

    @property
    def tokens(self) -> slice:
        """Place of this rank's piece in the row."""
        return slice(self.cuts[self.ranks.rank], self.cuts[self.ranks.rank + 1])

    @property
    def sizes(self) -> tuple[int, ...]:
        """Tokens of each piece."""
        return tuple(after - before for before, after in pairwise(self.cuts))

    @property
    def boundaries(self) -> list[int]:
        """Sequences of this piece, as boundaries within it; an empty piece has an empty sequence.

        The first one may have begun in a piece to the left, and the last one go on to the right.
        """
        first, last = self.tokens.start, self.tokens.stop
        return [0, *(start - first for start in self.starts if first < start < last), last - first]

    @property
    def num_leaving(self) -> int:
        """Tokens at the end of this piece whose sequence goes on in the next one."""
        begun = self._begun(self.tokens.stop)
        return 0 if begun is None else self.tokens.stop - max(begun, self.tokens.start)

    def distances(self) -> list[list[float]]:
        """Tokens between two pieces of a sequence.

        Returns:
            [R, R], in row r and column q the tokens after piece q and before piece r, where the
            sequence that continues into r was in q; elsewhere infinity, which forgets everything.
        """
        return [
            [self._distance(receiver, sender) for sender in range(self.ranks.size)]
            for receiver in range(self.ranks.size)
        ]

    def _distance(self, receiver: int, sender: int) -> float:
        begun = self._begun(self.cuts[receiver])
        left = self.cuts[sender + 1]
        is_from_left = sender < receiver and begun is not None and begun < left
        return self.cuts[receiver] - left if is_from_left else math.inf

    def _begun(self, cut: int) -> int | None:
        """Where the sequence began that goes on across a cut; None where none does."""
        index = bisect_left(self.starts, cut)
        return (
            None
            if index == len(self.starts) or self.starts[index] == cut
            else self.starts[index - 1]
        )


def share_row(cu_seqlens: Tensor, ranks: Ranks) -> SharedRow:
    """Cut packed sequences ([S + 1] boundaries) into one piece a rank."""
    starts = tuple(cu_seqlens.tolist())
    T, R = starts[-1], ranks.size
    return SharedRow(ranks, starts, tuple(T * rank // R for rank in range(R + 1)))
