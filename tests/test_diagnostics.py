import math
from dataclasses import replace

import pytest

from cispo.diagnostics import describe, in_task_order, speeds
from cispo.types import Graded, Group, PolicyVersion, Sample, StopReason
from tests.fakes import make_group, make_rollout, make_task

VERSION = PolicyVersion(5)


def samples_of(*groups: Group) -> list[tuple[Sample, ...]]:
    return [
        tuple(Sample(rollout=r, advantage=0.0, group_index=g.index) for r, _ in g.graded)
        for g in groups
    ]


def described(*groups: Group, dropped: dict[str, list[Group]] | None = None) -> dict[str, float]:
    return describe(groups, samples_of(*groups), [], version=VERSION, dropped=dropped or {})


def test_rewards_have_the_mean_and_the_population_std_of_all_graded_rollouts() -> None:
    metrics = described(make_group([1.0, 0.0]), make_group([1.0, None], index=1))
    assert metrics["reward/mean"] == pytest.approx(2 / 3)
    assert metrics["reward/std"] == pytest.approx(math.sqrt(2) / 3)


def test_dropped_groups_count_in_the_reward_and_by_reason() -> None:
    right, wrong = make_group([1.0, 1.0], index=1), make_group([0.0, 0.0], index=2)
    dropped = {"all_right": [right], "all_wrong": [wrong, make_group([0.0, 0.0], index=3)]}
    metrics = described(make_group([1.0, 0.0]), dropped=dropped)
    assert metrics["reward/mean"] == pytest.approx(3 / 8)
    assert metrics["drops/all_right_groups"] == 1
    assert metrics["drops/all_wrong_groups"] == 2
    assert metrics["drops/equal_rewards_groups"] == 0
    assert metrics["drops/ungraded_groups"] == 0


def test_parts_and_accuracy_are_averaged_by_name_and_by_source() -> None:
    metrics = described(
        make_group([1.0, 0.0], source="sums"), make_group([1.0, 1.0], index=1, source="logic")
    )
    assert metrics["reward/part/correct"] == 0.75
    assert metrics["accuracy/mean"] == 0.75
    assert metrics["accuracy/source/sums"] == 0.5
    assert metrics["accuracy/source/logic"] == 1.0


def test_a_part_that_some_verdicts_lack_is_averaged_over_those_that_have_it() -> None:
    task = make_task()
    group = Group(
        index=0,
        task=task,
        rollouts=(make_rollout(), make_rollout()),
        verdicts=(
            Graded(reward=0.8, parts={"correct": 1.0, "overlong": -0.5}),
            Graded(reward=0.0, parts={"correct": 0.0}),
        ),
    )
    assert described(group)["reward/part/overlong"] == -0.5


def test_the_pass_rate_histogram_has_its_bins_closed_above() -> None:
    groups = [
        make_group(rewards, index=index)
        for index, rewards in enumerate(
            [
                [0.0, 0.0, 0.0, 0.0],
                [1.0, 0.0, 0.0, 0.0],
                [1.0, 1.0, 0.0, 0.0],
                [1.0, 1.0, 1.0, 0.0],
                [1.0, 1.0, 1.0, 1.0],
                [1.0, 1.0, 1.0, 1.0, 0.0],
                [None, None],
                [1.0, None],
            ]
        )
    ]
    metrics = described(*groups)
    bins = {name: value * 7 for name, value in metrics.items() if name.startswith("groups/pass_")}
    assert bins == {
        "groups/pass_0_fraction": pytest.approx(1),
        "groups/pass_0_to_25_fraction": pytest.approx(1),
        "groups/pass_25_to_50_fraction": pytest.approx(1),
        "groups/pass_50_to_75_fraction": pytest.approx(1),
        "groups/pass_75_to_100_fraction": pytest.approx(1),
        "groups/pass_100_fraction": pytest.approx(2),
    }


def test_lengths_are_in_action_tokens_and_split_by_correctness() -> None:
    metrics = described(make_group([1.0, 0.0, 1.0, 0.0], lengths=[2, 10, 4, 20]))
    assert metrics["length/mean_tokens"] == 9
    assert metrics["length/max_tokens"] == 20
    assert metrics["length/p50_tokens"] == 4
    assert metrics["length/p90_tokens"] == 20
    assert metrics["length/correct_mean_tokens"] == 3
    assert metrics["length/wrong_mean_tokens"] == 15
    assert metrics["length/prompt_mean_tokens"] == 2


def test_a_number_without_data_is_left_out_rather_than_invented() -> None:
    metrics = described(make_group([0.0, 0.0]))
    assert "length/correct_mean_tokens" not in metrics
    assert "reward/mean" not in described(make_group([None, None]))
    assert all(math.isfinite(value) for value in metrics.values())


def test_stop_reasons_are_fractions_of_all_rollouts() -> None:
    metrics = described(
        make_group([1.0, 0.0]), make_group([0.0, 1.0], index=1, stop_reason=StopReason.LENGTH)
    )
    assert metrics["stop/end_of_turn_fraction"] == 0.5
    assert metrics["stop/length_fraction"] == 0.5
    assert metrics["stop/repetition_fraction"] == 0.0


def test_staleness_is_the_version_at_learning_minus_the_oldest_of_the_rollout() -> None:
    metrics = described(
        make_group([1.0, 0.0], oldest_version=5), make_group([1.0, 0.0], index=1, oldest_version=3)
    )
    assert metrics["staleness/mean"] == 1.0
    assert metrics["staleness/max"] == 2.0
    assert metrics["staleness/mixed_fraction"] == 0.0
    group = make_group([1.0, 0.0], lengths=[4, 4], oldest_version=5)
    mixed = replace(
        group.rollouts[0],
        oldest_version=PolicyVersion(3),
        version_runs=((3, 1), (5, 3)),  # one token of age 2 among eight
    )
    metrics = described(replace(group, rollouts=(mixed, group.rollouts[1])))
    assert metrics["staleness/mean"] == 1.0
    assert metrics["staleness/token_mean"] == 2 / 8
    assert metrics["staleness/mixed_fraction"] == 0.5


def test_missing_verdicts_are_counted_and_never_a_reward() -> None:
    metrics = described(make_group([1.0, 1.0, None, None]))
    assert metrics["verdict/invalid_fraction"] == 0.5
    assert metrics["verdict/invalid_rollouts"] == 2
    assert metrics["verdict/rollouts"] == 4
    assert metrics["reward/mean"] == 1.0


def test_tokens_are_counted_as_sampled_and_as_learned() -> None:
    kept, dropped = make_group([1.0, 0.0], lengths=[3, 5]), make_group([0.0, 0.0], index=1)
    metrics = described(kept, dropped={"all_wrong": [dropped]})
    assert metrics["rollout/sampled_tokens"] == 3 + 5 + 3 + 3
    assert metrics["rollout/learned_tokens"] == (2 + 3) + (2 + 5)
    assert metrics["learn/samples"] == 2


def test_the_learners_metrics_are_averaged_but_the_mismatch_is_that_of_the_first_update() -> None:
    group = make_group([1.0, 0.0])
    learned = [
        {"learn/loss": 1.0, "mismatch/max_nats": 0.001, "ratio/max": 3.0, "ratio/min": 0.5},
        {"learn/loss": 2.0, "mismatch/max_nats": 0.9, "ratio/max": 1.0, "ratio/min": 0.7},
    ]
    metrics = describe([group], samples_of(group), learned, version=VERSION, dropped={})
    assert metrics["learn/loss"] == 1.5
    assert metrics["mismatch/max_nats"] == 0.001
    assert metrics["ratio/max"] == 3.0
    assert metrics["ratio/min"] == 0.5
    assert metrics["learn/updates"] == 2


def test_groups_are_merged_in_task_order() -> None:
    kept = [make_group([1.0, 0.0], index=i) for i in (1, 4)]
    dropped = {
        "all_right": [make_group([1.0, 1.0], index=3)],
        "all_wrong": [make_group([0.0, 0.0], index=0)],
    }
    assert [g.index for g in in_task_order(kept, dropped)] == [0, 1, 3, 4]


def test_speeds_relate_tokens_to_the_time_in_which_they_were_made() -> None:
    metrics = {"rollout/sampled_tokens": 100.0, "rollout/learned_tokens": 300.0}
    assert speeds(metrics, {"time/learn_seconds": 2.0}, sampling_seconds=4.0) == {
        "time/rollout_busy_seconds": 4.0,
        "time/rollout_tokens_per_second": 25.0,
        "time/learner_tokens_per_second": 150.0,
    }
    assert speeds(metrics, {}, sampling_seconds=0.0) == {"time/rollout_busy_seconds": 0.0}


def test_the_repetition_stop_spares_the_rest_of_its_rollouts_budgets() -> None:
    stopped = make_group([1.0, 0.0], lengths=[30, 10], stop_reason=StopReason.REPETITION)
    others = make_group([1.0, 0.0], index=1, lengths=[20, 40])
    budgets = {0: 100, 1: 100}
    first, second = (
        replace(g, rollouts=tuple(replace(r, token_budget=budgets[g.index]) for r in g.rollouts))
        for g in (stopped, others)
    )
    metrics = described(first, second)
    assert metrics["rollout/repetition_saved_tokens"] == 70 + 90
    assert metrics["rollout/repetition_saved_fraction"] == 160 / (160 + 100)
    assert described(stopped)["rollout/repetition_saved_tokens"] == 0, "no budget is known"


def test_perplexity_is_of_all_action_tokens_together() -> None:
    # two groups of rollouts whose tokens have log mu = -0.5 each
    metrics = described(make_group([1.0, 0.0], lengths=[2, 7]))
    assert metrics["rollout/perplexity"] == pytest.approx(math.exp(0.5))


def test_rollouts_into_which_the_engine_forced_tokens_are_interrupted() -> None:
    group = make_group([1.0, 0.0, 0.0, 0.0], lengths=[4, 4, 4, 4])
    forced = replace(
        group.rollouts[0],
        action_mask=(False, False, True, False, True, True),
        version_runs=((1, 3),),
    )
    mixed = replace(group, rollouts=(forced, *group.rollouts[1:]))
    assert described(mixed)["rollout/interrupted_fraction"] == 0.25
    agent = replace(mixed, task=replace(mixed.task, is_agentic=True))
    assert described(agent)["rollout/interrupted_fraction"] == 0.0
