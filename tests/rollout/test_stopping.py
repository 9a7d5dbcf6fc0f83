"""When a sequence ends."""

import pytest
import torch

from cispo.types import StopReason
from rollout.stopping import REASON_OF_CODE, Endings, stop_table


def reasons(
    tokens: list[int],
    counts: list[int],
    streaks: list[int],
    *,
    kernels: str,
    repetition_tokens: int = 3,
    text_stops: list[int] | None = None,
) -> list[StopReason | None]:
    is_stop = stop_table(frozenset({2}), 5)
    codes, ended = Endings(is_stop, repetition_tokens=repetition_tokens, kernels=kernels).find(
        torch.tensor(tokens),
        torch.tensor(counts),
        budgets=torch.full((len(tokens),), 10),
        streaks=torch.tensor(streaks),
        text_stops=text_stops or [],
    )
    found = [REASON_OF_CODE[code] for code in codes.tolist()]
    assert ended == [row for row, reason in enumerate(found) if reason is not None]
    return found


def test_each_row_ends_for_its_own_reason(kernels: str) -> None:
    assert reasons([1, 2, 1, 1], [4, 4, 10, 4], [0, 0, 0, 3], kernels=kernels) == [
        None,
        StopReason.END_OF_TURN,
        StopReason.LENGTH,
        StopReason.REPETITION,
    ]


def test_a_stop_token_at_the_budget_ended_by_itself(kernels: str) -> None:
    assert reasons([2], [10], [3], kernels=kernels) == [StopReason.END_OF_TURN]


def test_zero_switches_the_repetition_stop_off(kernels: str) -> None:
    assert reasons([1], [4], [4000], repetition_tokens=0, kernels=kernels) == [None]


def test_of_several_reasons_the_nearest_to_the_text_counts(kernels: str) -> None:
    found = reasons([2, 1, 1, 1], [10] * 4, [3, 3, 3, 0], text_stops=[0, 1], kernels=kernels)
    assert found == [
        StopReason.END_OF_TURN,
        StopReason.STOP_STRING,
        StopReason.REPETITION,
        StopReason.LENGTH,
    ]


def test_a_stop_token_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[5\]"):
        stop_table(frozenset({5}), 5)
