import math
from typing import NamedTuple

import hypothesis.strategies as st
import torch
from hypothesis import given

from cispo.policy.lightning.shared_row import share_row

INF = math.inf


class _Seat(NamedTuple):
    """A rank that sends nothing."""

    rank: int
    size: int


def _on_each(lengths, size, look):
    ends = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    return [look(share_row(ends, _Seat(rank, size))) for rank in range(size)]


def test_a_row_is_cut_into_contiguous_pieces_that_know_their_sequences():
    # pieces [0, 3), [3, 7), [7, 11) of sequences [0, 2), [2, 9), [9, 11)
    assert _on_each((2, 7, 2), 3, lambda row: (row.tokens.start, row.tokens.stop)) == [
        (0, 3),
        (3, 7),
        (7, 11),
    ]
    assert _on_each((2, 7, 2), 3, lambda row: row.sizes) == [(3, 4, 4)] * 3
    assert _on_each((2, 7, 2), 3, lambda row: row.boundaries) == [[0, 2, 3], [0, 4], [0, 2, 4]]
    # of the second sequence the first piece has one token and the second piece four
    assert _on_each((2, 7, 2), 3, lambda row: row.num_leaving) == [1, 4, 0]
    # between the first piece and the third there are four tokens
    expected = [[INF, INF, INF], [0, INF, INF], [4, 0, INF]]
    assert _on_each((2, 7, 2), 3, lambda row: row.distances()) == [expected] * 3


def test_nothing_passes_where_a_cut_falls_between_sequences():
    assert _on_each((4, 1, 3), 2, lambda row: row.num_leaving) == [0, 0]
    assert _on_each((4, 1, 3), 2, lambda row: row.boundaries) == [[0, 4], [0, 1, 4]]
    assert _on_each((4, 1, 3), 2, lambda row: row.distances())[0] == [[INF, INF], [INF, INF]]


def test_more_ranks_than_tokens_leave_pieces_empty():
    assert _on_each((2,), 4, lambda row: row.sizes) == [(0, 1, 0, 1)] * 4
    assert _on_each((2,), 4, lambda row: row.boundaries) == [[0, 0], [0, 1], [0, 0], [0, 1]]
    assert _on_each((2,), 4, lambda row: row.num_leaving) == [0, 1, 0, 0]
    distances = _on_each((2,), 4, lambda row: row.distances())[0]
    assert distances[3] == [INF, 0, 0, INF], "the third piece is empty and passes nothing"


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 5))
def test_what_leaves_a_piece_is_what_its_right_neighbours_continue(lengths, size):
    pieces = _on_each(lengths, size, lambda row: row)
    ends = torch.tensor([0, *lengths]).cumsum(0).tolist()
    sequence = [i for i, length in enumerate(lengths) for _ in range(length)]
    covered = [t for row in pieces for t in range(row.tokens.start, row.tokens.stop)]
    assert covered == list(range(ends[-1]))
    assert max(pieces[0].sizes) - min(pieces[0].sizes) <= 1
    for row in pieces:
        place, last = row.tokens, row.tokens.stop
        own = sequence[place]
        goes_on = bool(own) and last < ends[-1] and sequence[last] == own[-1]
        assert row.num_leaving == (own.count(own[-1]) if goes_on else 0)
        for sender, distance in enumerate(row.distances()[row.ranks.rank]):
            other = sequence[pieces[sender].tokens]
            if not other or not own:
                continue
            if sender < row.ranks.rank and other[-1] == own[0]:
                assert distance == place.start - pieces[sender].tokens.stop
            else:
                assert distance == INF


def test_a_row_of_one_rank_is_one_piece():
    assert _on_each((3, 4), 1, lambda row: (row.sizes, row.boundaries, row.num_leaving)) == [
        ((7,), [0, 3, 7], 0)
    ]
