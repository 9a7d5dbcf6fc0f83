from dataclasses import dataclass, field

import pytest

from cispo.errors import StalledError
from cispo.watchdog import Watchdog
from tests.waiting import wait_until


@dataclass
class Watched:
    quiet: float = 0.0

    def quiet_seconds(self) -> float:
        return self.quiet

    def waits(self) -> list[str]:
        return ["learn 0/1 for 99 s: learner rank 1 (step 99 s)"]


@dataclass
class Ends:
    warned: list[str] = field(default_factory=list)
    in_order: list[str] = field(default_factory=list)
    hard: list[str] = field(default_factory=list)
    num_dumps: int = 0
    dump_error: OSError | None = None

    def dump(self) -> str:
        self.num_dumps += 1
        if self.dump_error:
            raise self.dump_error
        return "runs/x/stacks-1.txt"


def make_watchdog(
    watched: Watched,
    ends: Ends,
    *,
    dump_seconds: float = 10.0,
    end_seconds: float = 60.0,
    grace_seconds: float = 0.0,
) -> Watchdog:
    return Watchdog(
        watched,
        dump_seconds=dump_seconds,
        end_seconds=end_seconds,
        grace_seconds=grace_seconds,
        dump=ends.dump,
        advice=lambda: "continue with resume=runs/x",
        end=lambda error: ends.in_order.append(str(error)),
        end_hard=lambda error: ends.hard.append(str(error)),
        warn=ends.warned.append,
    )


def test_stacks_are_dumped_once_a_stall_and_the_wait_is_named() -> None:
    watched, ends = Watched(), Ends()
    watchdog = make_watchdog(watched, ends)
    for quiet in (0.0, 9.9, 10.0, 11.0, 3.0, 12.0):
        watched.quiet = quiet
        assert watchdog.look() is None
    said = (
        "nothing has happened for {} s; waiting: learn 0/1 for 99 s: learner rank 1 (step 99 s); "
        "stacks: runs/x/stacks-1.txt"
    )
    assert ends.warned == [said.format(10), said.format(12)]
    assert ends.num_dumps == 2


def test_the_error_names_what_was_waited_for_the_stacks_and_what_to_do() -> None:
    watched, ends = Watched(quiet=10.0), Ends()
    watchdog = make_watchdog(watched, ends)
    watchdog.look()
    watched.quiet = 60.4
    error = watchdog.look()
    assert isinstance(error, StalledError)
    assert str(error) == (
        "nothing has happened for 60 s; waiting: learn 0/1 for 99 s: learner rank 1 (step 99 s); "
        "stacks: runs/x/stacks-1.txt; watchdog.end_seconds=60 ended the run: "
        "continue with resume=runs/x"
    )


def test_zero_switches_off() -> None:
    watched, ends = Watched(quiet=1e9), Ends()
    assert make_watchdog(watched, ends, dump_seconds=0.0, end_seconds=0.0).look() is None
    assert ends.num_dumps == 0
    assert make_watchdog(watched, ends, dump_seconds=0.0).look() is not None
    assert ends.num_dumps == 0


def test_a_full_disk_takes_the_stacks_and_not_the_watchdog() -> None:
    watched, ends = Watched(quiet=10.0), Ends(dump_error=OSError("no space"))
    make_watchdog(watched, ends).look()
    assert ends.warned[0].endswith("stacks: could not be written (no space)")


@pytest.mark.parametrize("is_left_in_time", [True, False])
def test_a_run_that_does_not_end_in_order_is_ended_hard(is_left_in_time: bool) -> None:
    watched, ends = Watched(quiet=60.0), Ends()
    grace = 600.0 if is_left_in_time else 0.0
    with make_watchdog(watched, ends, grace_seconds=grace):
        wait_until(lambda: bool(ends.in_order), what="the run is ended in order")
        if not is_left_in_time:
            wait_until(lambda: bool(ends.hard), what="the run is ended hard")
    assert ends.hard == ([] if is_left_in_time else ends.in_order)
