import asyncio
from itertools import combinations

import pytest

from cispo.errors import RolloutError, UngradedError
from cispo.evaluate import HeldOutEvaluator, describe_heldout, pass_at_k
from tests.fakes import FakeEngine, FakeProgress, FakeVerifier, make_group, make_task
from tests.waiting import PATIENCE_SECONDS


def make_evaluator(
    engine: FakeEngine,
    verifier: FakeVerifier | None = None,
    *,
    num_tasks: int = 3,
    progress: FakeProgress | None = None,
) -> HeldOutEvaluator:
    return HeldOutEvaluator(
        [make_task(i, source="sums" if i < 2 else "logic") for i in range(num_tasks)],
        engine,
        verifier or FakeVerifier(),
        num_rollouts=4,
        seed=3,
        progress=progress or FakeProgress(),
    )


def test_avg_at_k_is_the_mean_over_tasks_of_their_share_of_right_answers() -> None:
    metrics = describe_heldout(
        [
            make_group([1.0, 0.0, 0.0, 0.0], source="sums"),
            make_group([1.0, 1.0, 1.0, 1.0], index=1, source="sums"),
            make_group([0.0, 0.0, 0.0, 0.0], index=2, source="logic"),
        ]
    )
    assert metrics["heldout/avg@4"] == pytest.approx(1.25 / 3)
    assert metrics["heldout/avg@4/sums"] == 0.625
    assert metrics["heldout/avg@4/logic"] == 0.0
    assert metrics["heldout/pass@4"] == pytest.approx(2 / 3)
    # pass@2: 1 - C(3,2)/C(4,2) = 1/2 for one of four, 1 for four of four, 0 for none.
    assert metrics["heldout/pass@2"] == pytest.approx(0.5)
    assert metrics["heldout/length_mean_tokens"] == 3
    assert metrics["heldout/tasks"] == 3


@pytest.mark.parametrize("num_right", range(6))
@pytest.mark.parametrize("k", range(1, 6))
def test_pass_at_k_is_the_share_of_subsets_with_a_right_rollout(num_right: int, k: int) -> None:
    rollouts = [index < num_right for index in range(5)]
    subsets = list(combinations(rollouts, k))
    share = sum(any(subset) for subset in subsets) / len(subsets)
    assert pass_at_k(5, num_right, k) == pytest.approx(share)


def test_pass_at_k_refuses_too_few_rollouts() -> None:
    with pytest.raises(ValueError, match="pass@4 needs at least 4 rollouts, got 3"):
        pass_at_k(3, 1, 4)


def test_ungraded_rollouts_are_counted_and_vote_in_nothing() -> None:
    metrics = describe_heldout(
        [
            make_group([1.0, 1.0, None, None]),
            make_group([0.0, 0.0, 0.0, 0.0], index=1),
            make_group([None, None, None, None], index=2),
        ]
    )
    assert metrics["heldout/avg@4"] == 0.5
    assert metrics["heldout/pass@4"] == 0.0
    assert metrics["heldout/pass@2"] == 0.5
    assert metrics["heldout/invalid_rollouts"] == 6
    assert metrics["heldout/tasks"] == 3


def test_an_evaluation_without_any_verdict_is_an_error_with_its_cause() -> None:
    with pytest.raises(UngradedError, match=r"2 of 2 .* sandbox lost"):
        describe_heldout([make_group([None, None])])


async def test_evaluations_use_the_same_seeds_every_time() -> None:
    engine = FakeEngine()
    evaluator = make_evaluator(engine)
    first = await evaluator.evaluate()
    seeds = dict(engine.seeds)
    assert await evaluator.evaluate() == first
    assert engine.seeds == seeds
    assert len(set(seeds.values())) == 3


async def test_progress_counts_tasks() -> None:
    progress = FakeProgress()
    await make_evaluator(FakeEngine(), progress=progress).evaluate()
    assert progress.events == ["start evaluate 3", "finish evaluate"]
    assert progress.done == {"evaluate": 3}


async def test_an_error_ends_the_evaluation_at_once_and_cancels_the_rest() -> None:
    engine = FakeEngine(
        latency=lambda task: 0.0 if task == "task-1" else 3600.0,
        fails={"task-1": RolloutError("no actor left")},
    )
    async with asyncio.timeout(PATIENCE_SECONDS):
        with pytest.raises(RolloutError):
            await make_evaluator(engine).evaluate()
    assert engine.num_active == 0
