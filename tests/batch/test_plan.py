"""How sequences are shared among micro-batches and ranks, down to what is wasted."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cispo.batch.plan import PassPlan, plan_passes

LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=60)


def tokens(plan: PassPlan, lengths: list[int]) -> list[list[int]]:
    """Tokens of each micro-batch by pass and rank."""
    return [[sum(lengths[i] for i in part) for part in ranks] for ranks in plan.passes]


@given(lengths=LENGTHS, budget=st.integers(1, 120), num_ranks=st.integers(1, 5), pads=st.booleans())
def test_every_sequence_is_planned_once_and_within_the_budget(
    lengths: list[int], budget: int, num_ranks: int, pads: bool
) -> None:
    plan = plan_passes(lengths, micro_batch_tokens=budget, num_ranks=num_ranks, pads_rows=pads)
    parts = [part for ranks in plan.passes for part in ranks]
    assert sorted(i for part in parts for i in part) == list(range(len(lengths)))
    for part in filter(None, parts):
        size = max(lengths[i] for i in part) * len(part) if pads else sum(lengths[i] for i in part)
        assert size <= budget or len(part) == 1


@given(lengths=LENGTHS, budget=st.integers(1, 120), num_ranks=st.integers(1, 5), pads=st.booleans())
def test_every_rank_has_a_place_in_every_pass_and_no_pass_is_empty(
    lengths: list[int], budget: int, num_ranks: int, pads: bool
) -> None:
    plan = plan_passes(lengths, micro_batch_tokens=budget, num_ranks=num_ranks, pads_rows=pads)
    for ranks in plan.passes:
        assert len(ranks) == num_ranks
        assert any(ranks)
    for ranks in plan.passes[:-1]:  # a rank is idle only where nothing is left
        assert all(ranks)


@given(lengths=LENGTHS, budget=st.integers(1, 120), num_ranks=st.integers(1, 5))
def test_what_waits_for_a_later_pass_fits_on_no_rank_of_this_one(
    lengths: list[int], budget: int, num_ranks: int
) -> None:
    plan = plan_passes(lengths, micro_batch_tokens=budget, num_ranks=num_ranks)
    for index, sizes in enumerate(tokens(plan, lengths)):
        later = [i for ranks in plan.passes[index + 1 :] for part in ranks for i in part]
        if later:
            assert min(sizes) + min(lengths[i] for i in later) > budget


@given(lengths=LENGTHS, budget=st.integers(1, 120), num_ranks=st.integers(1, 5))
def test_the_plan_is_a_function_of_the_lengths(
    lengths: list[int], budget: int, num_ranks: int
) -> None:
    def plan() -> PassPlan:
        return plan_passes(list(lengths), micro_batch_tokens=budget, num_ranks=num_ranks)

    assert plan() == plan()


def test_a_plan_by_hand() -> None:
    # 9 | 7, then 3 to the second rank; 4 would fit on neither, nor would another 2
    plan = plan_passes([4, 9, 2, 3, 7, 2], micro_batch_tokens=10, num_ranks=2)
    assert plan.passes == (((1,), (4, 3)), ((0,), (2, 5)))
    assert plan.padding_fraction == pytest.approx((10 + 4) * 2 / 27 - 1)


def test_the_place_of_a_rank_without_work_costs_what_fills_it() -> None:
    plan = plan_passes([5], micro_batch_tokens=10, num_ranks=2)
    assert plan.passes == (((0,), ()),)
    assert plan.padding_fraction == pytest.approx(1.0)  # two ranks compute five tokens each


def test_sequences_above_the_budget_are_alone() -> None:
    plan = plan_passes([3, 99, 4], micro_batch_tokens=10)
    assert plan.passes == (((1,),), ((2, 0),))


def test_a_model_that_pads_gets_sequences_of_like_lengths() -> None:
    lengths = [100, 1, 100, 1, 1, 1]
    plan = plan_passes(lengths, micro_batch_tokens=200, pads_rows=True)
    assert plan.passes == (((0, 2),), ((1, 3, 4, 5),))
    assert plan.padding_fraction == pytest.approx(0.0)
    mixed = plan_passes([100, 50], micro_batch_tokens=200, pads_rows=True)
    assert mixed.padding_fraction == pytest.approx(200 / 150 - 1)


# --- long tails ----------------------------------------------------------------------------------

LONGEST = 40_960


def long_tail(kind: str, count: int, *, seed: int) -> list[int]:
    """Lengths as thinking has them, cut at the budget of the engine."""
    draw = np.random.default_rng(seed)
    match kind:
        case "log-normal":
            lengths = draw.lognormal(8.5, 1.0, count)
        case "narrow log-normal":
            lengths = draw.lognormal(9.0, 0.6, count)
        case "Pareto":
            lengths = 1000 * (1 + draw.pareto(1.2, count))
        case "half cut off":
            lengths = np.where(draw.random(count) < 0.5, LONGEST, draw.lognormal(8.5, 1.0, count))
    return [int(length) for length in np.clip(lengths, 20, LONGEST)]


@pytest.mark.parametrize("kind", ["log-normal", "narrow log-normal", "Pareto", "half cut off"])
@pytest.mark.parametrize("num_ranks", [1, 2, 3, 8, 32])
@pytest.mark.parametrize("budget", [LONGEST, 3 * LONGEST])
def test_no_more_than_a_twentieth_is_wasted_on_a_long_tail(
    kind: str, num_ranks: int, budget: int
) -> None:
    for seed in range(3):
        lengths = long_tail(kind, 512, seed=seed)  # an update of 32 prompts with 16 rollouts
        plan = plan_passes(lengths, micro_batch_tokens=budget, num_ranks=num_ranks)
        assert plan.padding_fraction <= 0.05
        fewest = math.ceil(sum(lengths) / (num_ranks * budget))
        assert len(plan.passes) <= fewest + max(1, fewest // 20)


def test_ranks_without_enough_work_wait_for_the_longest_sequence_and_for_nothing_else() -> None:
    lengths = long_tail("Pareto", 64, seed=0)
    plan = plan_passes(lengths, micro_batch_tokens=3 * LONGEST, num_ranks=16)
    assert len(plan.passes) == 1
    assert max(lengths) * 16 > sum(lengths)  # it is longer than an even share
    assert plan.padding_fraction == pytest.approx(max(lengths) * 16 / sum(lengths) - 1)
