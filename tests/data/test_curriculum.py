"""Phases of the mixture begin when they shall, and shares move as they say."""

import json

import pytest

from cispo.config.curriculum import PhaseConfig
from cispo.config.tasks import SourceConfig, TasksConfig
from cispo.data.curriculum import Curriculum
from cispo.errors import ConfigError

REASONING = PhaseConfig(weights={"math": 3, "logic": 1})


def curriculum(**second: object) -> Curriculum:
    phases = {"reasoning": REASONING, "mixed": PhaseConfig(**second)}  # type: ignore[arg-type]
    return Curriculum(phases, ["math", "logic", "judge"])


def test_a_phase_begins_after_its_number_of_iterations() -> None:
    phases = curriculum(weights={"judge": 1}, after_iterations=2)
    assert phases.shares == (0.75, 0.25, 0.0)
    assert phases.observe([]) is None
    assert phases.shares == (0.75, 0.25, 0.0)
    assert phases.observe([]) == (
        "curriculum: mixed begins with judge 100%, after 2 iterations of reasoning"
    )
    assert (phases.stage, phases.shares) == (1, (0.0, 0.0, 1.0))
    assert phases.observe([]) is None


def test_shares_move_in_equal_steps() -> None:
    phases = curriculum(weights={"math": 1, "judge": 3}, after_iterations=1, ramp_iterations=3)
    seen = []
    for _ in range(5):
        seen.append(phases.shares)
        phases.observe([])
    assert seen == [
        pytest.approx((0.75, 0.25, 0.0)),
        pytest.approx((0.75 - 0.5 / 3, 0.25 - 0.25 / 3, 0.25)),
        pytest.approx((0.75 - 1.0 / 3, 0.25 - 0.5 / 3, 0.5)),
        pytest.approx((0.25, 0.0, 0.75)),
        pytest.approx((0.25, 0.0, 0.75)),
    ]
    assert all(sum(shares) == pytest.approx(1.0) for shares in seen)


def test_a_phase_waits_for_a_pass_rate_over_the_last_tasks_of_its_source() -> None:
    phases = curriculum(weights={"judge": 1}, pass_rate_of="math", pass_rate=0.5, pass_rate_tasks=4)
    assert phases.observe([("math", 1.0), ("math", 1.0), ("math", 1.0)]) is None  # three of four
    assert phases.observe([("logic", 1.0)]) is None  # another source does not count
    assert phases.observe([("math", 0.0), ("math", 0.0)]) is not None  # 1 1 0 0


def test_the_pass_rate_that_began_a_phase_is_told() -> None:
    phases = curriculum(weights={"judge": 1}, pass_rate_of="math", pass_rate=0.5, pass_rate_tasks=2)
    assert phases.observe([("math", 1.0), ("math", 0.0), ("math", 0.25)]) is None  # 0.125
    told = phases.observe([("math", 0.75)])  # 0.25 and 0.75
    assert told is not None
    assert told.endswith("after 2 iterations of reasoning; 50.0% of math is right over its last 2")


def test_a_pass_rate_does_not_shorten_a_phase() -> None:
    phases = curriculum(
        weights={"judge": 1},
        after_iterations=2,
        pass_rate_of="math",
        pass_rate=0.5,
        pass_rate_tasks=1,
    )
    assert phases.observe([("math", 1.0)]) is None
    assert phases.observe([]) is not None


def test_a_restored_curriculum_goes_on_alike_in_the_middle_of_a_ramp() -> None:
    def fresh() -> Curriculum:
        last = PhaseConfig(
            weights={"judge": 1}, pass_rate_of="math", pass_rate=0.6, pass_rate_tasks=3
        )
        mixed = PhaseConfig(weights={"math": 1, "judge": 1}, after_iterations=1, ramp_iterations=4)
        phases = {"reasoning": REASONING, "mixed": mixed, "last": last}
        return Curriculum(phases, ["math", "logic", "judge"])

    outcomes = [[("math", 0.1 * step)] for step in range(10)]
    whole = fresh()
    course = [(whole.observe(outcome), whole.shares) for outcome in outcomes]
    assert [told is not None for told, _ in course].count(True) == 2
    for cut in range(10):
        first, second = fresh(), fresh()
        before = [(first.observe(outcome), first.shares) for outcome in outcomes[:cut]]
        second.restore(json.loads(json.dumps(first.state())))
        after = [(second.observe(outcome), second.shares) for outcome in outcomes[cut:]]
        assert before + after == course


def sources(*names: str) -> list[SourceConfig]:
    return [SourceConfig(kind="reasoning_gym", name=name) for name in names]


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ({"weights": {"c": 1}, "after_iterations": 1}, "mixed.weights=c: .*there are a, b"),
        ({"weights": {"b": 0}, "after_iterations": 1}, "give a source a weight above 0"),
        ({"weights": {"b": 1}}, "say when the phase begins"),
        ({"weights": {"b": 1}, "pass_rate": 0.5}, "goes together with pass_rate_of"),
        ({"weights": {"b": 1}, "pass_rate": 0.5, "pass_rate_of": "b"}, "would never be known"),
        ({"weights": {"b": 1}, "pass_rate": 1.5, "pass_rate_of": "a"}, r"must lie in \(0, 1\]"),
        ({"weights": {"b": 1}, "after_iterations": 1, "ramp_iterations": 0}, "ramp_iterations=0"),
    ],
)
def test_phases_that_cannot_work_are_refused(second: dict[str, object], words: str) -> None:
    phases = {"first": PhaseConfig(weights={"a": 1}), "mixed": PhaseConfig(**second)}  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=words):
        TasksConfig(sources=sources("a", "b"), curriculum=phases)


def test_the_first_phase_may_not_wait_and_labels_must_differ() -> None:
    waits = {"first": PhaseConfig(weights={"a": 1}, after_iterations=1)}
    with pytest.raises(ConfigError, match="begins with the run"):
        TasksConfig(sources=sources("a"), curriculum=waits)
    with pytest.raises(ConfigError, match=r"\['a'\].*labels that differ"):
        TasksConfig(sources=sources("a", "a"), curriculum={"only": PhaseConfig(weights={"a": 1})})
