from collections.abc import Mapping

import pytest

from cispo.tracking.fanout import Fanout
from tests.fakes import FakeTracker, make_group


def test_everything_reaches_every_tracker() -> None:
    trackers = [FakeTracker(), FakeTracker()]
    fanout = Fanout(trackers)
    group = make_group([1.0, 0.0])
    fanout.log(1, {"reward/mean": 0.5})
    fanout.record(1, [group])
    fanout.finish({"iterations": 1})
    for tracker in trackers:
        assert tracker.lines == [(1, {"reward/mean": 0.5})]
        assert tracker.groups == {1: [group]}
        assert tracker.summary == {"iterations": 1}


def test_all_trackers_are_finished_even_when_one_fails() -> None:
    class Failing(FakeTracker):
        def finish(self, summary: Mapping[str, object]) -> None:
            raise OSError("disk full")

    last = FakeTracker()
    with pytest.raises(OSError, match="disk full"):
        Fanout([Failing(), last]).finish({"iterations": 1})
    assert last.summary == {"iterations": 1}
