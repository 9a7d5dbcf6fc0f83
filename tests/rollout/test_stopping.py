"""When a sequence ends."""

import math

import pytest
import torch

from cispo.types import StopReason
from rollout.stopping import REASON_OF_CODE, extend_streaks, stop_codes, stop_table


def reasons(
    tokens: list[int], counts: list[int], streaks: list[int], *, repetition_tokens: int = 3
) -> list[StopReason | None]:
    codes = stop_codes(
        torch.tensor(tokens),
        torch.tensor(counts),
        budgets=torch.full((len(tokens),), 10),
        streaks=torch.tensor(streaks),
        is_stop=stop_table(frozenset({2}), 5),
        repetition_tokens=repetition_tokens,
    )
    return [REASON_OF_CODE[code] for code in codes.tolist()]


def test_each_row_ends_for_its_own_reason() -> None:
    assert reasons([1, 2, 1, 1], [4, 4, 10, 4], [0, 0, 0, 3]) == [
        None,
        StopReason.END_OF_TURN,
        StopReason.LENGTH,
        StopReason.REPETITION,
    ]


def test_a_stop_token_at_the_budget_ended_by_itself() -> None:
    assert reasons([2], [10], [3]) == [StopReason.END_OF_TURN]


def test_zero_switches_the_repetition_stop_off() -> None:
    assert reasons([1], [4], [4000], repetition_tokens=0) == [None]


def test_a_streak_breaks_at_the_first_token_that_is_not_certain() -> None:
    streaks = torch.zeros(2, dtype=torch.int64)
    seen = []
    for first, second in [(0.995, 0.995), (0.995, 0.9), (0.995, 0.995)]:
        logprobs = torch.tensor([first, second]).log()
        streaks = extend_streaks(streaks, logprobs, log_threshold=math.log(0.99))
        seen.append(streaks.tolist())
    assert seen == [[1, 1], [2, 0], [3, 1]]


def test_a_stop_token_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[5\]"):
        stop_table(frozenset({5}), 5)
