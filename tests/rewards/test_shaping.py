"""Form, length and the weighted sum, by hand arithmetic."""

import pytest

from rewards.shaping import format_part, overlong_part, weighted_sum


@pytest.mark.parametrize(
    ("num_tokens", "penalty"),
    [(0, 0.0), (80, 0.0), (85, -0.25), (90, -0.5), (100, -1.0), (120, -1.0)],
)
def test_length_is_penalised_in_a_straight_line_before_the_budget(
    num_tokens: int, penalty: float
) -> None:
    assert overlong_part(num_tokens, max_tokens=100, cache_tokens=20) == pytest.approx(penalty)


def test_no_cache_means_no_penalty() -> None:
    assert overlong_part(10_000, max_tokens=100, cache_tokens=0) == 0.0


def test_form_is_one_or_nothing() -> None:
    assert format_part("<think>a</think>b") == 1.0
    assert format_part("b") == 0.0


def test_the_reward_is_the_weighted_sum_of_the_parts_there_are() -> None:
    parts = {"correct": 1.0, "format": 0.0, "overlong": -0.5, "score": 1.0}
    weights = {"correct": 1.0, "format": 0.1, "overlong": 0.5, "passed_fraction": 3.0}
    assert weighted_sum(parts, weights) == pytest.approx(0.75)
