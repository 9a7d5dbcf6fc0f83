import io
import threading

import pytest
from rich.console import Console

from cispo.tracking.activity import Activity
from cispo.tracking.console import open_console
from cispo.tracking.headline import closing_lines, duration, headline
from cispo.tracking.live import LiveConsole
from cispo.tracking.pace import Pace
from cispo.tracking.plain import PlainConsole
from tests.waiting import wait_until


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_headline_has_what_a_person_watches() -> None:
    metrics = {
        "reward/mean": 0.5125,
        "accuracy/mean": 0.4,
        "heldout/avg@4": 0.625,
        "heldout/avg@4/sums": 0.1,
        "length/mean_tokens": 41.6,
        "entropy/mean_nats": 0.314,
        "staleness/max": 1.0,
        "drops/all_right_groups": 2.0,
        "drops/all_wrong_groups": 1.0,
        "verdict/invalid_fraction": 0.125,
        "time/iteration_seconds": 8.04,
    }
    assert headline(3, 40, metrics, eta_seconds=296.4) == (
        "iteration  3/40  reward 0.512  accuracy 40.0%  held-out avg@4 62.5%  length 42  "
        "entropy 0.31  stale 1  dropped 3  ungraded 12.5%  8.0 s  eta 4:56"
    )


def test_the_headline_leaves_out_what_a_step_lacks() -> None:
    assert headline(0, 9, {"heldout/avg@2": 0.5}, eta_seconds=None) == (
        "iteration 0/9  held-out avg@2 50.0%"
    )


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (61, "1:01"), (3725, "1:02:05")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_time_left_is_that_of_recent_iterations() -> None:
    pace = Pace()
    assert pace.eta_seconds(0, 10, {"time/iteration_seconds": 99.0}) is None
    assert pace.eta_seconds(1, 10, {"time/iteration_seconds": 2.0}) == 18.0
    assert pace.eta_seconds(2, 10, {"time/iteration_seconds": 4.0}) == 24.0


def test_activity_knows_counts_ages_and_waits() -> None:
    clock = Clock()
    activity = Activity(clock)
    activity.start("sample", 32)
    clock.now += 5
    activity.advance("sample", 3)
    clock.now += 7
    activity.waiting("sample", "task-4 (grading 12 s)")
    activity.advance("sample", 0)
    assert activity.waits() == ["sample 3/32 for 12 s: task-4 (grading 12 s)"]
    assert activity.quiet_seconds() == 7
    activity.finish("sample")
    clock.now += 3
    assert activity.waits() == ["what comes after sample, for 3 s"]


def test_before_any_phase_the_first_is_what_is_waited_for() -> None:
    clock = Clock()
    activity = Activity(clock)
    clock.now += 2
    assert activity.waits() == ["the first phase, for 2 s"]


def make_plain(clock: Clock) -> tuple[PlainConsole, io.StringIO]:
    out = io.StringIO()
    return PlainConsole(out, iterations=40, heartbeat_seconds=15, clock=clock), out


def test_without_a_terminal_an_iteration_is_one_line() -> None:
    console, out = make_plain(Clock())
    console.log(1, {"reward/mean": 0.5, "time/iteration_seconds": 2.0})
    assert out.getvalue() == "iteration  1/40  reward 0.500  2.0 s  eta 1:18\n"


def test_a_long_wait_is_named_every_fifteen_seconds_and_not_before() -> None:
    clock = Clock()
    console, out = make_plain(clock)
    console.progress.start("sample", 4)
    for _ in range(14):
        clock.now += 1
        console.progress.waiting("sample", "task-7 (sampling 1 s)")
        console.beat()
    assert out.getvalue() == ""
    clock.now += 1
    console.beat()
    assert out.getvalue() == "  waiting: sample 0/4 for 15 s: task-7 (sampling 1 s)\n"
    clock.now += 14
    console.beat()
    assert out.getvalue().count("\n") == 1
    clock.now += 1
    console.beat()
    assert out.getvalue().count("\n") == 2


def test_a_wait_is_not_named_while_things_happen() -> None:
    clock = Clock()
    console, out = make_plain(clock)
    console.progress.start("learn", 9)
    for _ in range(9):
        clock.now += 10
        console.progress.advance("learn")
        console.beat()
    assert out.getvalue() == ""


def test_the_heartbeat_beats_while_the_main_thread_is_stuck() -> None:
    out = io.StringIO()
    with PlainConsole(out, iterations=1, heartbeat_seconds=0.5) as console:
        console.progress.start("publish", 1)
        wait_until(lambda: "waiting: publish 0/1 for " in out.getvalue(), what="a wait is named")
    wait_until(
        lambda: "heartbeat" not in {thread.name for thread in threading.enumerate()},
        what="the heartbeat ends",
    )


def test_the_end_says_what_the_run_came_to() -> None:
    console, out = make_plain(Clock())
    console.finish(
        {
            "iterations": 40,
            "wall_seconds": 125.0,
            "heldout_before": 0.25,
            "heldout_after": 0.75,
            "rollout_tokens_per_second": 2345.6,
            "learner_tokens_per_second": None,
        }
    )
    assert out.getvalue() == (
        "held-out accuracy 25.0% -> 75.0% (+50.0 points)\n"
        "40 iterations in 2:05  2,346 tokens/s sampled\n"
    )
    assert closing_lines({}) == []


def test_a_terminal_shows_bars_rates_time_left_and_waits() -> None:
    clock = Clock()
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100, color_system=None)
    live = LiveConsole(console, name="smoke", iterations=40, clock=clock)
    live.progress.start("evaluate", 8)
    clock.now += 4
    live.progress.advance("evaluate", 8)
    live.progress.finish("evaluate")
    live.log(10, {"reward/mean": 0.5, "time/iteration_seconds": 2.0})
    live.progress.start("sample", 32)
    clock.now += 4
    live.progress.advance("sample", 16)
    live.progress.waiting("sample", "task-7 [x] (sampling 4 s)")
    console.print(live.render())
    lines = [line.split() for line in out.getvalue().splitlines()]
    assert lines[0] == ["iteration", "10/40", "reward", "0.500", "2.0", "s"]
    shown = {line[0]: [word for word in line[1:] if set(word) - set("━╸╺─")] for line in lines[1:]}
    assert shown["smoke"] == ["0:08"]
    assert shown["iterations"] == ["10/40", "eta", "1:00"]
    assert shown["evaluate"] == ["8/8", "2.0/s", "4.0", "s"]
    assert lines[-2][-4:] == ["16/32", "4.0/s", "eta", "0:04"]
    waiting = "waiting: sample 16/32 for 4 s: task-7 [x] (sampling 4 s)"
    assert " ".join(lines[-1]) == waiting


def test_the_live_panel_comes_and_goes() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100)
    with LiveConsole(console, name="smoke", iterations=2) as live:
        live.progress.start("learn", 2)
        live.log(1, {"reward/mean": 0.25})
        live.finish({"heldout_before": 0.25, "heldout_after": 0.5})
    assert "reward 0.250" in out.getvalue()
    assert "25.0% -> 50.0%" in out.getvalue()


def test_bars_are_for_terminals_only() -> None:
    terminal = Console(file=io.StringIO(), force_terminal=True)
    assert isinstance(open_console(name="x", iterations=1, console=terminal), LiveConsole)
    pipe = Console(file=io.StringIO(), force_terminal=False)
    assert isinstance(open_console(name="x", iterations=1, console=pipe), PlainConsole)
