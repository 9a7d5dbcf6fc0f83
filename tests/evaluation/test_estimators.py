"""pass@k and maj@k against hand arithmetic and against listing all subsets."""

import math
from collections import Counter
from collections.abc import Sequence
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cispo.evaluation.estimators import majority_at_k, pass_at_k, powers_of_two_to


def listed_majority(answers: Sequence[str | None], is_right: Sequence[float], k: int) -> float:
    values = []
    for subset in combinations(range(len(answers)), k):
        votes = Counter(answers[i] for i in subset if answers[i] is not None)
        winners = [answer for answer, count in votes.items() if count == max(votes.values())]
        rights = [is_right[answers.index(winner)] for winner in winners]
        values.append(math.fsum(rights) / len(rights) if rights else 0.0)
    return math.fsum(values) / len(values)


def test_hand_arithmetic_of_majorities() -> None:
    # Of {7, 7, 8} with 7 right: three pairs, 7-7 wins, 7-8 is a draw twice: (1 + 1/2 + 1/2) / 3.
    assert majority_at_k(["7", "7", "8"], [1, 1, 0], 2) == pytest.approx(2 / 3)
    assert majority_at_k(["7", "7", "8"], [1, 1, 0], 3) == 1.0
    assert majority_at_k(["7", "8", "8"], [1, 0, 0], 3) == 0.0
    # A draw of three, one of which is right.
    assert majority_at_k(["7", "8", "9"], [1, 0, 0], 3) == pytest.approx(1 / 3)


def test_a_rollout_without_an_answer_votes_for_nothing() -> None:
    assert majority_at_k([None, None, "7"], [0, 0, 1], 3) == 1.0
    assert majority_at_k([None, None, "7"], [0, 0, 1], 1) == pytest.approx(1 / 3)
    assert majority_at_k([None, None], [0, 0], 2) == 0.0


def test_one_vote_is_the_mean_of_the_answers() -> None:
    assert majority_at_k(["1", "2", "2", "3"], [0, 1, 1, 0], 1) == 0.5


@given(st.lists(st.sampled_from(["a", "b", "c", "d", None]), min_size=1, max_size=8), st.data())
def test_majorities_are_those_of_all_subsets(
    answers: list[str | None], data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, len(answers)))
    is_right = [float(answer in ("a", "c")) for answer in answers]
    assert majority_at_k(answers, is_right, k) == pytest.approx(
        listed_majority(answers, is_right, k)
    )


@given(st.lists(st.booleans(), min_size=1, max_size=8), st.data())
def test_passes_are_those_of_all_subsets(rights: list[bool], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(rights)))
    subsets = list(combinations(rights, k))
    assert pass_at_k(len(rights), sum(rights), k) == pytest.approx(
        sum(any(subset) for subset in subsets) / len(subsets)
    )


def test_thirty_two_answers_are_counted_without_listing_half_a_billion_subsets() -> None:
    answers = [str(i % 11) for i in range(32)]
    value = majority_at_k(answers, [float(answer == "3") for answer in answers], 16)
    # Ten answers were given three times and one twice; by symmetry the ten share what is left.
    rare = majority_at_k(answers, [float(answer == "10") for answer in answers], 16)
    assert 10 * value + rare == pytest.approx(1.0)
    assert value > rare > 0


def test_what_cannot_be_estimated_is_refused() -> None:
    with pytest.raises(ValueError, match="maj@3"):
        majority_at_k(["1"], [1.0], 3)


def test_the_sizes_are_powers_of_two_and_all() -> None:
    assert powers_of_two_to(1) == [1]
    assert powers_of_two_to(6) == [1, 2, 4, 6]
    assert powers_of_two_to(8) == [1, 2, 4, 8]
