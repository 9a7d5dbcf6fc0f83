from cispo.length_bias import CORRELATION, LengthBiasMonitor, describe_judge
from cispo.tracking.alarms import Alarms
from cispo.types import Graded, Group, PolicyVersion, Rollout, StopReason, Task


def judged_group(pairs: list[tuple[int, float]], part: str = "grade") -> Group:
    """Make a group from lengths and what was given for them."""
    task = Task(task_id="t", messages=({},), verifier="judge")  # type: ignore[arg-type]
    rollouts = tuple(
        Rollout(
            task_id="t",
            token_ids=[1] * length,
            action_mask=[True] * length,
            behaviour_logprobs=[0.0] * length,
            text="",
            stop_reason=StopReason.END_OF_TURN,
            oldest_version=PolicyVersion(1),
            newest_version=PolicyVersion(1),
        )
        for length, _ in pairs
    )
    verdicts = tuple(Graded(reward=r, parts={"correct": r, part: r}) for _, r in pairs)
    return Group(index=0, task=task, rollouts=rollouts, verdicts=verdicts)


def test_the_correlation_is_within_groups_not_between_them() -> None:
    long_and_poor = judged_group([(100, 0.0), (110, 0.25)])
    short_and_good = judged_group([(10, 0.75), (20, 1.0)])
    described = describe_judge([long_and_poor, short_and_good])
    assert described[CORRELATION] == 1.0
    assert described["judge/reward_mean"] == 0.5


def test_equal_lengths_or_rewards_have_no_correlation() -> None:
    assert describe_judge([judged_group([(5, 0.0), (5, 1.0)])])[CORRELATION] == 0.0
    assert describe_judge([judged_group([(5, 1.0), (9, 1.0)])])[CORRELATION] == 0.0


def test_what_rules_graded_is_kept_apart() -> None:
    by_rule = judged_group([(5, 1.0), (9, 0.0)], part="score")
    assert describe_judge([by_rule]) == {}
    both = describe_judge([by_rule, judged_group([(5, 0.0), (6, 1.0)])])
    assert both["judge/rule_accuracy"] == 0.5
    assert both["judge/reward_mean"] == 0.5


def run(*, growth: float, reward: float, success: float, correlation: float = 0.6) -> list[str]:
    monitor = LengthBiasMonitor()
    messages = [
        monitor.message(
            {
                CORRELATION: correlation,
                "judge/reward_mean": 0.5 + reward * i,
                "judge/rule_accuracy": 0.3 + success * i,
                "length/mean_tokens": 100.0 * (1 + growth * i),
            }
        )
        for i in range(12)
    ]
    return [message for message in messages if message]


def test_longer_and_better_paid_without_success_is_an_alarm() -> None:
    (first, *_) = run(growth=0.05, reward=0.02, success=0.0)
    assert "pays for length" in first


def test_success_or_no_growth_or_no_pay_is_none() -> None:
    assert run(growth=0.05, reward=0.02, success=0.01) == []
    assert run(growth=0.0, reward=0.02, success=0.0) == []
    assert run(growth=0.05, reward=-0.01, success=0.0) == []
    assert run(growth=0.05, reward=0.02, success=0.0, correlation=0.0) == []


def test_the_alarm_is_said_once_while_it_lasts() -> None:
    alarms = Alarms()
    said = [
        alarms.begun(
            {
                CORRELATION: 0.9,
                "judge/reward_mean": 0.1 + 0.02 * i,
                "length/mean_tokens": 100.0 + 10 * i,
            }
        )
        for i in range(14)
    ]
    assert [len(messages) for messages in said] == [0] * 9 + [1] + [0] * 4
