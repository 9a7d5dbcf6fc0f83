"""Several schedules as one."""

from collections.abc import Mapping, Sequence
from typing import Any

from cispo.schedules import Schedules
from cispo.types import Group, Metrics
from tests.fakes import make_group


class Counting:
    """Counts iterations."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.count = 0

    def observe(self, groups: Sequence[Group]) -> Metrics:
        self.count += len(groups)
        return {f"count/{self.name}": float(self.count)}

    def state(self) -> Mapping[str, Any]:
        return {"count": self.count}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.count = state.get("count", 0)


def test_all_observe_and_each_gets_its_own_state_back() -> None:
    both = Schedules({"first": Counting("a"), "second": Counting("b")})
    both.restore({"second": {"count": 5}})
    assert both.observe([make_group([1.0, 0.0])]) == {"count/a": 1.0, "count/b": 6.0}
    assert both.state() == {"first": {"count": 1}, "second": {"count": 6}}
    both.restore({})
    assert both.state() == {"first": {"count": 0}, "second": {"count": 0}}


def test_no_schedule_logs_and_keeps_nothing() -> None:
    none = Schedules()
    assert (dict(none.observe([])), none.state()) == ({}, {})
