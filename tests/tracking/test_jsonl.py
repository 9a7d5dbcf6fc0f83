import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cispo.errors import ConfigError, RunFolderError
from cispo.tracking.history import names_under, read_history, series
from cispo.tracking.jsonl import JsonlTracker, line
from tests.full_disk import full_disk


def write(path: Path, *steps: int, keep_through: int | None = None) -> None:
    tracker = JsonlTracker(path, keep_through=keep_through)
    for step in steps:
        tracker.log(step, {"reward/mean": step / 3})
    tracker.finish({})


def test_every_step_is_a_line_that_is_on_disk_at_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tracker = JsonlTracker(path)
    tracker.log(0, {"heldout/avg@4": 0.5})
    tracker.log(1, {"reward/mean": 0.1})
    assert path.read_text() == (
        '{"step": 0, "heldout/avg@4": 0.5}\n{"step": 1, "reward/mean": 0.1}\n'
    )
    tracker.finish({})


@given(st.floats(allow_nan=False))
def test_floats_come_back_to_the_bit(value: float) -> None:
    back = json.loads(line(1, {"x": value}))["x"]
    assert back.hex() == value.hex() if math.isfinite(value) else back == value


def test_a_resume_removes_the_lines_beyond_its_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, 0, 1, 2, 3)
    write(path, 3, 4, keep_through=2)
    assert [step for step, _ in read_history(path)] == [0, 1, 2, 3, 4]


def test_a_resumed_file_equals_that_of_a_run_that_was_never_killed(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    write(whole, 0, 1, 2, 3)
    write(killed, 0, 1, 2)
    write(killed, 2, 3, keep_through=1)
    assert killed.read_bytes() == whole.read_bytes()


def test_a_line_torn_by_a_kill_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, 0, 1)
    with path.open("a") as file:
        file.write('{"step": 2, "reward/me')
    assert [step for step, _ in read_history(path)] == [0, 1]
    write(path, 2, keep_through=1)
    assert [step for step, _ in read_history(path)] == [0, 1, 2]


def test_a_fresh_run_does_not_overwrite_an_earlier_one(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, 0)
    with pytest.raises(ConfigError, match="earlier run"):
        JsonlTracker(path)


def test_a_full_disk_ends_the_run_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tracker = JsonlTracker(path)
    tracker.log(1, {"reward/mean": 0.5})
    with full_disk(path.stat().st_size + 10), pytest.raises(RunFolderError) as error:
        tracker.log(2, {"reward/mean": 0.5})
    assert str(error.value).startswith(f"{path}: the metrics of step 2 cannot be written (")
    assert f"make room, then continue with resume={tmp_path}" in str(error.value)
    tracker.finish({})
    assert [step for step, _ in read_history(path)] == [1]
    write(path, 2, keep_through=1)
    assert [step for step, _ in read_history(path)] == [1, 2]


def test_series_and_names_are_read_from_the_steps_that_have_them(tmp_path: Path) -> None:
    history = [(0, {"heldout/avg@4": 0.1}), (1, {"a/x": 1.0}), (2, {"a/x": 2.0, "a/y": 3.0})]
    assert series(history, "a/x") == ([1, 2], [1.0, 2.0])
    assert series(history, "nothing") == ([], [])
    assert names_under(history, "a/") == ["a/x", "a/y"]
