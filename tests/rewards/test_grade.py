"""What a verdict is made of besides correctness."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from cispo.types import Graded
from rewards.explained import Explained
from rewards.grade import GradingVerifier, Judged, Shaping
from tests.fakes import make_rollout, make_task


async def right(answer: str, truth: Mapping[str, Any]) -> Judged:
    return {"correct": 1.0}


@pytest.mark.parametrize(
    ("budget", "penalty"),
    [
        (None, -0.5),  # 90 of the 100 tokens that the shaping names, 10 into a slope of 20
        (96, -0.7),  # 14 into the slope that ends at 96
        (120, 0.0),
    ],
)
async def test_the_penalty_for_length_follows_the_budget_that_a_rollout_had(
    budget: int | None, penalty: float
) -> None:
    shaping = Shaping(
        weights={"correct": 1.0, "overlong": 0.5}, max_tokens=100, overlong_cache_tokens=20
    )
    rollout = replace(make_rollout(num_action_tokens=90), token_budget=budget)
    verdict = await GradingVerifier({"math": right}, shaping).grade(make_task(), rollout)
    assert isinstance(verdict, Graded)
    assert verdict.parts["overlong"] == pytest.approx(penalty)
    assert verdict.reward == pytest.approx(1.0 + 0.5 * penalty)


async def test_what_a_sandbox_said_goes_with_the_verdict_and_not_into_the_reward() -> None:
    async def explained(answer: str, truth: Mapping[str, Any]) -> Judged:
        return Explained(parts={"correct": 0.5}, output="1 of 2 tests failed")

    shaping = Shaping(weights={"correct": 1.0}, max_tokens=100, overlong_cache_tokens=0)
    verdict = await GradingVerifier({"math": explained}, shaping).grade(make_task(), make_rollout())
    assert isinstance(verdict, Graded)
    assert (verdict.reward, verdict.output) == (0.5, "1 of 2 tests failed")
