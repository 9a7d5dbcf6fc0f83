import json
from pathlib import Path

import pytest

from cispo.spans import SpannedProgress, SpannedVerifier, Spans
from cispo.tracking.timeline import TimelineFile
from tests.fakes import FakeProgress, FakeVerifier, make_rollout, make_task
from tests.full_disk import full_disk


class Clock:
    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


def make(clock: Clock) -> Spans:
    return Spans(clock=clock, epoch=lambda: 1000.0)  # the clock's 50 is 1000 s after 1970


def test_spells_of_one_lane_that_overlap_are_one() -> None:
    clock = Clock()
    spans = make(clock)
    with spans("a"):
        clock.now = 51.0
        with spans("a"), spans("b"):
            clock.now = 52.0
        clock.now = 53.0
    clock.now = 60.0
    with spans("a"):
        clock.now = 61.0
    assert spans.lap() == {"a": [(1000.0, 1003.0), (1010.0, 1011.0)], "b": [(1001.0, 1002.0)]}
    assert spans.lap() == {}


def test_a_pause_of_a_moment_is_none() -> None:
    clock = Clock()
    spans = make(clock)
    for pause in (0.004, 0.006, 0.0):
        with spans("a"):
            clock.now += 1.0
        clock.now += pause
    assert spans.lap() == {"a": [(1000.0, 1002.004), (1002.01, 1003.01)]}


def test_what_goes_on_is_cut_in_two_where_a_line_ends() -> None:
    clock = Clock()
    spans = make(clock)
    spans.begin("a")
    clock.now = 54.0
    assert spans.lap() == {"a": [(1000.0, 1004.0)]}
    clock.now = 57.0
    spans.end("a")
    assert spans.lap() == {"a": [(1004.0, 1007.0)]}


def test_work_that_fails_ends_too() -> None:
    clock = Clock()
    spans = make(clock)

    def fail() -> None:
        with spans("a"):
            clock.now = 51.0
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert spans.lap() == {"a": [(1000.0, 1001.0)]}


async def test_grading_and_phases_are_lanes() -> None:
    clock = Clock()
    spans, progress = make(clock), FakeProgress()
    graded = await SpannedVerifier(FakeVerifier(), spans).grade(make_task(), make_rollout(text="1"))
    assert graded == await FakeVerifier().grade(make_task(), make_rollout(text="1"))
    spanned = SpannedProgress(progress, spans)
    spanned.start("learn", 2)
    spanned.advance("learn")
    clock.now = 52.0
    spanned.finish("learn")
    spanned.start("sample", 2)  # fails without an end, and begins again
    spanned.start("sample", 2)
    clock.now = 53.0
    spanned.finish("sample")
    assert spans.lap() == {
        "rewards": [(1000.0, 1000.0)],
        "loop/learn": [(1000.0, 1002.0)],
        "loop/sample": [(1002.0, 1003.0)],
    }
    assert progress.events[:2] == ["start learn 2", "finish learn"]
    assert progress.done["learn"] == 1


def write(path: Path, *steps: int, keep_through: int | None = None) -> None:
    clock = Clock()
    spans = make(clock)
    file = TimelineFile(path, spans, keep_through=keep_through)
    for step in steps:
        with spans("learner"):
            clock.now += 1.0
        clock.now += 1.0
        file.log(step, {})


def test_the_file_has_a_line_a_step_and_a_resume_shortens_it(tmp_path: Path) -> None:
    path = tmp_path / "timeline.jsonl"
    write(path, 0, 1, 2, 3)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[1] == {"step": 1, "learner": [[1002.0, 1003.0]]}
    write(path, 2, keep_through=1)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [0, 1, 2]


def test_a_full_disk_costs_the_lanes_and_no_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with full_disk(0):
        write(tmp_path / "timeline.jsonl", 1, 2)
    assert len(caplog.messages) == 1
    assert "the run goes on" in caplog.messages[0]
