from cispo.tracking.alarms import Alarms
from cispo.tracking.departure import DIVERGENCE, DepartureMonitor


def test_one_departure_is_how_a_policy_finds_a_better_way() -> None:
    monitor = DepartureMonitor()
    assert [monitor.message({DIVERGENCE: nats}) for nats in (0.9, 0.004, 0.9, 0.004)] == [None] * 4


def test_a_departure_that_lasts_is_an_alarm_with_its_size_and_length() -> None:
    monitor = DepartureMonitor()
    assert monitor.message({DIVERGENCE: 1.7}) is None
    message = monitor.message({DIVERGENCE: 0.08})
    assert message is not None
    assert "0.08 nats a token" in message
    assert "2 iterations in a row" in message
    assert "3 iterations" in (monitor.message({DIVERGENCE: 0.2}) or "")
    assert monitor.message({DIVERGENCE: 0.001}) is None


def test_an_iteration_without_updates_changes_nothing() -> None:
    monitor = DepartureMonitor()
    monitor.message({DIVERGENCE: 0.5})
    assert monitor.message({}) is None
    assert monitor.message({DIVERGENCE: 0.5}) is not None


def test_a_run_says_it_once() -> None:
    alarms = Alarms()
    said = [len(alarms.begun({DIVERGENCE: nats})) for nats in (0.5, 0.5, 0.5, 0.0)]
    assert said == [0, 1, 0, 0]
