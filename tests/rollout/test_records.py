"""What rows have sampled is written down and counted, whoever does it."""

import math

import pytest
import torch

from cispo.policy.lightning.native.build import native_library
from cispo.policy.lightning.native.notes import native_endings, native_note
from rollout.columns import Columns
from rollout.records import Records
from rollout.sampling import Drawn

needs_native = pytest.mark.skipif(native_library() is None, reason="native kernels cannot be built")


def drawn(tokens: list[int], *probabilities: float) -> Drawn:
    """Tokens with a probability of their own before truncation, and of half of it after."""
    full = torch.tensor(probabilities).log()
    return Drawn(torch.tensor(tokens), full - math.log(2.0), full)


def test_a_token_is_written_behind_those_that_its_row_has(kernels: str) -> None:
    records = Records(3, certainty=0.99, kernels=kernels)
    rows = Columns.empty(3, device="cpu").first(2)
    rows.counts.copy_(torch.tensor([0, 4]))
    records.append(drawn([7, 8], 0.5, 0.25), rows)
    records.append(drawn([9, 6], 1.0, 0.5), rows)
    assert rows.counts.tolist() == [2, 6]
    assert rows.last_tokens.tolist() == [9, 6]
    tokens, logprobs, full_logprobs = records.read(0, slice(2))
    assert tokens == [7, 9]
    assert logprobs == pytest.approx([math.log(0.25), math.log(0.5)])
    assert full_logprobs == pytest.approx([math.log(0.5), 0.0])
    assert records.tokens(1, slice(6)) == [0, 0, 0, 0, 8, 6]
    assert records.tokens(2, slice(6)) == [0] * 6


def test_a_streak_breaks_at_the_first_token_that_is_not_certain(kernels: str) -> None:
    records = Records(2, certainty=0.99, kernels=kernels)
    rows = Columns.empty(2, device="cpu")
    seen = []
    for probabilities in [(0.995, 0.995), (0.995, 0.9), (0.995, 0.995)]:
        records.append(drawn([1, 1], *probabilities), rows)
        seen.append(rows.streaks.tolist())
    assert seen == [[1, 1], [2, 0], [3, 1]]


def test_a_token_that_was_not_chosen_breaks_a_streak(kernels: str) -> None:
    records = Records(2, certainty=0.99, kernels=kernels)
    rows = Columns.empty(2, device="cpu")
    records.append(drawn([1, 1], 1.0, 1.0), rows)
    records.append(drawn([1, 1], 1.0, 1.0), rows, is_forced=torch.tensor([True, False]))
    assert rows.streaks.tolist() == [0, 2]


def test_rows_grow_with_what_they_hold(kernels: str) -> None:
    records = Records(1, certainty=0.99, kernels=kernels)
    rows = Columns.empty(1, device="cpu")
    for token in range(1000):
        records.append(drawn([token], 0.5), rows)
    assert records.tokens(0, slice(1000)) == list(range(1000))


@needs_native
def test_a_row_without_room_is_refused_and_nothing_changes() -> None:
    rows = Columns.empty(2, device="cpu")
    rows.counts.copy_(torch.tensor([0, 3]))
    matrices = [torch.zeros(2, 3, dtype=torch.int32), torch.zeros(2, 3), torch.zeros(2, 3)]
    sample = drawn([1, 2], 0.5, 0.5)
    with pytest.raises(ValueError, match="row 1 has no place 3 among 3"):
        native_note(
            *sample,
            sample.full_logprobs,
            log_threshold=-0.01,
            counts=rows.counts,
            streaks=rows.streaks,
            last_tokens=rows.last_tokens,
            matrices=matrices,
        )
    assert rows.counts.tolist() == [0, 3]
    assert not matrices[0].any()


@needs_native
def test_a_token_outside_of_the_vocabulary_is_refused() -> None:
    columns = torch.zeros(4, 2, dtype=torch.int64)
    with pytest.raises(ValueError, match="token 5 of row 1 is not among 5"):
        native_endings(
            torch.tensor([1, 5]),
            columns[0],
            budgets=columns[1],
            streaks=columns[2],
            is_stop=torch.zeros(5, dtype=torch.bool),
            repetition_tokens=0,
            codes=columns[3],
        )
