from dataclasses import replace

import pytest

from cispo.plan.architecture import Architecture, Block
from cispo.plan.comparison import K, compare
from cispo.plan.flops import EXACT, FIGURE, QUOTED, UNHALVED, Cost, cost, length_at
from cispo.plan.layers import FeedForward, Lightning, Softmax
from cispo.plan.published import M1, M1_AS_DRAWN, QWEN3_235B, R1, R1_AS_DRAWN

TABLE = {
    "A": ("38.5", "29.2", "42.0", "123.4", "18.6"),
    "B": ("44.5", "34.4", "52.2", "161.8", "22.2"),
    "C": ("16.7", "12.0", "13.9", "38.0", "7.2"),
    "D": ("29.0", "22.2", "26.1", "80.9", "14.9"),
    "E": ("43.3", "33.5", "49.6", "156.0", "21.8"),
}
"""M1 over R1: percent at 64K and 100K; half and quarter at (K tokens); percent of a late token."""


@pytest.mark.parametrize("letter", TABLE)
def test_every_cell_of_the_table_is_reproduced(letter: str) -> None:
    row = next(row for row in compare() if row.name.startswith(letter))
    cells = (
        100 * row.share_at_64k,
        100 * row.share_at_100k,
        row.half_at / K,
        row.quarter_at / K,
        100 * row.marginal_at_100k,
    )
    assert tuple(f"{cell:.1f}" for cell in cells) == TABLE[letter]


def test_the_coefficients_of_figure_1_are_reproduced() -> None:
    m1, r1 = cost(M1_AS_DRAWN, FIGURE), cost(R1_AS_DRAWN, FIGURE)
    qwen = cost(QWEN3_235B, FIGURE)
    found = [f"{c.per_token:.4e} {c.per_square:.4e}" for c in (r1, qwen, m1)]
    assert found == [
        "7.5415e+10 3.4980e+06",
        "4.3037e+10 2.3101e+06",
        "1.0453e+11 1.9661e+05",
    ]


def test_short_rollouts_of_m1_cost_more_than_those_of_r1() -> None:
    drawn = cost(M1_AS_DRAWN, FIGURE).total(8 * K) / cost(R1_AS_DRAWN, FIGURE).total(8 * K)
    assert f"{drawn:.0%}" == "102%"
    assert cost(M1, EXACT).total(8 * K) > cost(R1, EXACT).total(8 * K)


def test_a_small_model_is_counted_by_hand() -> None:
    d, V = 4, 10
    model = Architecture(
        name="small",
        vocab_size=V,
        hidden_size=d,
        blocks=(
            Block(
                count=2,
                attention=Lightning(heads=2, head_dim=3),
                feed_forward=FeedForward(width=5, experts=4, chosen=2),
            ),
            Block(
                count=1,
                attention=Softmax(heads=2, kv_heads=1, head_dim=3),
                feed_forward=FeedForward(width=7),
            ),
        ),
    )
    lightning = 2 * (5 * d * 6) + 4 * 2 * 9 + 2 * (2 * 3 * d * 5) + 2 * d * 4
    softmax = 2 * (2 * d * 6 + d * 6) + 2 * (3 * d * 7)
    found = cost(model)
    assert found.per_token == 2 * lightning + softmax + 2 * d * V
    assert found.per_square == (2 * 6 + 2 * 6) / 2  # a score and a value, for half of the pairs
    assert cost(model, UNHALVED).per_square == 2 * found.per_square


def test_spans_and_marginal_tokens_follow_from_the_total() -> None:
    some = Cost(per_token=3.0, per_square=0.5)
    assert some.total(4) == 3 * 4 + 0.5 * 16
    assert some.span(2, 4) == some.total(4) - some.total(2)
    assert some.marginal(4) == 3 + 2 * 0.5 * 4


def test_a_share_that_is_never_reached_is_refused() -> None:
    dear, cheap = Cost(per_token=2.0, per_square=1.0), Cost(per_token=1.0, per_square=1.0)
    with pytest.raises(ValueError, match="never crossed"):
        length_at(0.5, dear, cheap)


def test_a_quoted_size_has_to_be_quoted() -> None:
    with pytest.raises(ValueError, match="no quoted active parameters"):
        cost(replace(M1, quoted_active_parameters=0.0), QUOTED)
