import math
import random
from collections.abc import Callable, Sequence
from statistics import mean, pstdev, stdev

import pytest

from cispo.advantages import advantages, has_signal
from cispo.config import AdvantageKind
from tests.fakes import make_group


def values(
    groups: Sequence[Sequence[float | None]], kind: AdvantageKind = AdvantageKind.GROUP_STD
) -> list[list[float]]:
    made = [make_group(rewards, index=index) for index, rewards in enumerate(groups)]
    return [[s.advantage for s in samples] for samples in advantages(made, kind=kind)]


def test_group_std_is_equation_2_with_the_population_deviation() -> None:
    # mean 1/4, deviation sqrt(3)/4: (1 - 1/4) / (sqrt(3)/4) = sqrt(3), -(1/4) / (sqrt(3)/4)
    expected = [math.sqrt(3), -1 / math.sqrt(3), -1 / math.sqrt(3), -1 / math.sqrt(3)]
    assert values([[1, 0, 0, 0]])[0] == pytest.approx(expected, rel=1e-15)


def test_no_epsilon_shrinks_the_advantages_of_tiny_rewards() -> None:
    assert values([[1e-9, -1e-9]])[0] == pytest.approx([1.0, -1.0], rel=1e-15)


@pytest.mark.parametrize("kind", list(AdvantageKind))
@pytest.mark.parametrize("reward", [0.0, 0.1, -1.0])
def test_a_group_of_equal_rewards_has_advantages_of_exactly_zero(
    kind: AdvantageKind, reward: float
) -> None:
    assert values([[reward] * 7], kind) == [[0.0] * 7]


def test_groups_of_equal_rewards_can_be_left_out() -> None:
    made = [make_group(rewards, index=i) for i, rewards in enumerate([[1, 1], [1, 0], [None, 0]])]
    found = advantages(made, kind=AdvantageKind.GROUP_STD, leaves_out_equal=True)
    assert [[s.advantage for s in samples] for samples in found] == [[], [1.0, -1.0], []]


def test_group_mean_does_not_divide() -> None:
    assert values([[3, 1, 2]], AdvantageKind.GROUP_MEAN) == [[1.0, -1.0, 0.0]]


def test_leave_one_out_compares_with_the_others() -> None:
    # 3 - (1+2)/2, 1 - (3+2)/2, 2 - (3+1)/2
    assert values([[3, 1, 2]], AdvantageKind.LEAVE_ONE_OUT)[0] == pytest.approx([1.5, -1.5, 0.0])


def test_batch_std_centres_by_group_and_divides_by_the_spread_of_the_batch() -> None:
    # centred: 1, -1, 0.5, -0.5, 0, 0; mean square (1 + 1 + 1/4 + 1/4) / 6 = 5/12
    spread = math.sqrt(5 / 12)
    found = values([[2, 0], [1, 0], [4, 4]], AdvantageKind.BATCH_STD)
    assert found[0] == pytest.approx([1 / spread, -1 / spread])
    assert found[1] == pytest.approx([0.5 / spread, -0.5 / spread])
    assert found[2] == [0.0, 0.0]


def test_an_ungraded_member_neither_learns_nor_votes() -> None:
    group = make_group([1, None, 0], index=5)
    (samples,) = advantages([group], kind=AdvantageKind.GROUP_STD)
    assert [s.advantage for s in samples] == pytest.approx([1.0, -1.0])
    assert [s.rollout for s in samples] == [group.rollouts[0], group.rollouts[2]]
    assert [s.group_index for s in samples] == [5, 5]


@pytest.mark.parametrize("kind", list(AdvantageKind))
def test_a_group_with_one_graded_member_gives_no_sample(kind: AdvantageKind) -> None:
    assert values([[1, None], [None, None], [1, 0]], kind)[:2] == [[], []]


def test_no_groups_give_no_samples() -> None:
    assert values([], AdvantageKind.BATCH_STD) == []


def test_group_std_forgets_scale_and_offset_of_rewards() -> None:
    draw = random.Random(0)
    rewards = [draw.random() for _ in range(8)]
    moved = [3.0 * reward - 2.0 for reward in rewards]
    assert values([rewards])[0] == pytest.approx(values([moved])[0], rel=1e-12)


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [
        ([1, 0], True),
        ([1, 1], False),
        ([1, None], False),
        ([None, None], False),
        ([1, None, 0], True),
    ],
)
def test_signal_needs_two_graded_members_that_differ(
    rewards: list[float | None], expected: bool
) -> None:
    assert has_signal(make_group(rewards)) is expected


def check_equation_2(estimator: Callable[[Sequence[Sequence[float]]], list[list[float]]]) -> None:
    """Two groups of unlike spread; each is centred and scaled by its own population deviation."""
    found = estimator([[1, 0], [10, 0, 10, 0]])
    assert found[0] == pytest.approx([1, -1])
    assert found[1] == pytest.approx([1, -1, 1, -1])


def _sample_deviation(groups: Sequence[Sequence[float]]) -> list[list[float]]:
    return [[(r - mean(g)) / stdev(g) for r in g] for g in groups]


def _epsilon(groups: Sequence[Sequence[float]]) -> list[list[float]]:
    return [[(r - mean(g)) / (pstdev(g) + 1e-4) for r in g] for g in groups]


def _batch_mean(groups: Sequence[Sequence[float]]) -> list[list[float]]:
    flat = [reward for group in groups for reward in group]
    return [[(r - mean(flat)) / pstdev(g) for r in g] for g in groups]


def _batch_deviation(groups: Sequence[Sequence[float]]) -> list[list[float]]:
    return values(groups, AdvantageKind.BATCH_STD)


def test_the_default_estimator_passes_the_check() -> None:
    check_equation_2(values)


@pytest.mark.parametrize("wrong", [_sample_deviation, _epsilon, _batch_mean, _batch_deviation])
def test_a_wrong_estimator_fails_the_check(
    wrong: Callable[[Sequence[Sequence[float]]], list[list[float]]],
) -> None:
    with pytest.raises(AssertionError):
        check_equation_2(wrong)
