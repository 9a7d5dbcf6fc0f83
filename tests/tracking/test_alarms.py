import io

import pytest

from cispo.tracking.alarms import Alarms
from cispo.tracking.plain import PlainConsole


@pytest.mark.parametrize(
    ("name", "bad", "good"),
    [
        ("mismatch/max_nats", 0.7, 0.01),
        ("kl/k3_nats", 0.6, 0.1),
        ("weight/effective_sample_fraction", 0.1, 0.9),
        ("weight/capped_fraction", 0.4, 0.01),
        ("verdict/invalid_fraction", 0.2, 0.0),
        ("stop/length_fraction", 0.8, 0.1),
    ],
)
def test_a_bad_number_raises_an_alarm_and_a_good_one_none(
    name: str, bad: float, good: float
) -> None:
    assert len(Alarms().begun({name: bad})) == 1
    assert Alarms().begun({name: good}) == []
    assert Alarms().begun({}) == []


def test_an_alarm_is_said_when_it_begins_and_again_after_it_was_over() -> None:
    alarms = Alarms()
    bad, good = {"verdict/invalid_fraction": 0.5}, {"verdict/invalid_fraction": 0.0}
    said = [len(alarms.begun(metrics)) for metrics in (good, bad, bad, good, bad)]
    assert said == [0, 1, 0, 0, 1]


def test_an_inert_ratio_is_an_alarm_only_where_learning_is_off_policy() -> None:
    inert = {"ratio/inert_fraction": 1.0}
    assert Alarms().begun({**inert, "learn/updates": 1.0, "staleness/mean": 0.0}) == []
    for off_policy in ({"learn/updates": 2.0}, {"learn/updates": 1.0, "staleness/mean": 1.0}):
        (said,) = Alarms().begun({**inert, **off_policy})
        assert "no clip acts" in said


def test_the_console_says_alarms() -> None:
    out = io.StringIO()
    PlainConsole(out, iterations=1).log(1, {"verdict/invalid_fraction": 0.25})
    assert "  alarm: 25% of the verdicts are missing\n" in out.getvalue()
