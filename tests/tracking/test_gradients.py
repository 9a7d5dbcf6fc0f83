from cispo.tracking.alarms import Alarms
from cispo.tracking.gradients import NORM, GradientMonitor


def test_a_norm_ten_times_the_median_is_an_alarm_with_both_numbers() -> None:
    monitor = GradientMonitor()
    for norm in (0.2, 0.1, 0.3, 0.2, 0.2):
        assert monitor.message({NORM: norm}) is None
    assert monitor.message({NORM: 1.9}) is None
    message = monitor.message({NORM: 4.0})
    assert message is not None
    assert "norm is 4, 20 times the usual 0.2" in message


def test_nothing_is_usual_in_the_first_iterations() -> None:
    monitor = GradientMonitor()
    assert [monitor.message({NORM: norm}) for norm in (1e-6, 1.0, 1e6)] == [None] * 3


def test_updates_without_signal_say_nothing_of_what_is_usual() -> None:
    monitor = GradientMonitor()
    assert [monitor.message({NORM: norm}) for norm in [0.0] * 60 + [7.0]] == [None] * 61
    for _ in range(5):
        monitor.message({NORM: 0.1})
        monitor.message({NORM: 0.0})
    message = monitor.message({NORM: 7.0})
    assert message is not None
    assert "70 times the usual 0.1" in message


def test_what_stays_becomes_usual() -> None:
    monitor = GradientMonitor()
    for _ in range(30):
        monitor.message({NORM: 0.1})
    messages = [monitor.message({NORM: 5.0}) for _ in range(40)]
    assert messages[0] is not None
    assert messages[-1] is None


def test_the_alarm_is_reported_once() -> None:
    alarms = Alarms()
    for _ in range(6):
        assert alarms.begun({NORM: 0.1}) == []
    assert len(alarms.begun({NORM: 9.0})) == 1
    assert alarms.begun({NORM: 9.0}) == []
