"""Bootstrap intervals against the distributions that they must have."""

import math
from itertools import product

import numpy as np
import pytest

from cispo.evaluation.intervals import difference, estimate, share


def test_an_interval_is_that_of_all_resamples() -> None:
    values = [0.0, 0.0, 1.0, 1.0, 1.0]
    means = [np.mean(chosen) for chosen in product(values, repeat=5)]  # all 3,125, equally likely
    low, high = np.percentile(means, [2.5, 97.5])
    found = estimate(values, seed=3)
    assert found.mean == pytest.approx(0.6)
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert found.num_problems == 5


def test_a_wide_sample_has_the_normal_interval() -> None:
    values = [float(i % 4 == 0) for i in range(1000)]
    found = estimate(values, seed=0)
    half = 1.96 * math.sqrt(0.25 * 0.75 / 1000)
    assert found.low == pytest.approx(0.25 - half, abs=0.004)
    assert found.high == pytest.approx(0.25 + half, abs=0.004)


def test_the_seed_fixes_the_interval_and_equal_values_leave_none() -> None:
    values = [i * i % 17 / 17 for i in range(40)]
    assert estimate(values, seed=1) == estimate(values, seed=1)
    assert estimate(values, seed=1) != estimate(values, seed=2)
    sure = estimate([1.0] * 7, seed=1)
    assert (sure.mean, sure.low, sure.high) == (1.0, 1.0, 1.0)


def test_problems_that_agree_leave_the_doubt_that_their_number_does() -> None:
    none, all_right = share([0.0] * 30, seed=1), share([1.0] * 30, seed=1)
    assert (none.mean, none.low, none.high) == (0.0, 0.0, pytest.approx(1 - 0.05 ** (1 / 30)))
    assert none.high == pytest.approx(3 / 30, rel=0.06)  # the rule of three
    assert (all_right.low, all_right.high) == (pytest.approx(1 - none.high), 1.0)
    assert share([0.0, 1.0, 1.0], seed=1) == estimate([0.0, 1.0, 1.0], seed=1)


def test_pairing_sees_what_two_separate_intervals_do_not() -> None:
    hard = [0.0, 1.0] * 20
    ours = [0.1 + 0.8 * value for value in hard]
    theirs = [0.8 * value for value in hard]
    found = difference(ours, theirs, seed=0)
    assert found.estimate.mean == pytest.approx(0.1)
    assert found.estimate.low == pytest.approx(0.1)
    assert found.p_value == 0.0
    assert estimate(ours, seed=0).low < estimate(theirs, seed=0).high


def test_equal_runs_do_not_differ() -> None:
    found = difference([0.0, 1.0, 0.5], [0.0, 1.0, 0.5], seed=0)
    assert (found.estimate.mean, found.p_value) == (0.0, 1.0)


def test_a_swap_turns_the_sign() -> None:
    ours, theirs = [0.2, 0.9, 0.4, 0.6], [0.1, 0.3, 0.8, 0.2]
    forth, back = difference(ours, theirs, seed=5), difference(theirs, ours, seed=5)
    assert forth.estimate.low == pytest.approx(-back.estimate.high)
    assert forth.p_value == pytest.approx(back.p_value)


def test_what_cannot_be_estimated_is_refused() -> None:
    with pytest.raises(ValueError, match="no problem"):
        estimate([], seed=0)
    with pytest.raises(ValueError, match="2 and 1"):
        difference([1.0, 0.0], [1.0], seed=0)
