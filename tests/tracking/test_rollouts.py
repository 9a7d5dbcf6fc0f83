from pathlib import Path

import pytest

from cispo.tracking.rollouts import RolloutFiles, read_rollouts
from cispo.types import RolloutKind
from tests.fakes import make_group
from tests.full_disk import full_disk


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_every_rollout_is_written_with_what_grading_it_again_needs(tmp_path: Path) -> None:
    RolloutFiles(tmp_path, every=1).record(1, [make_group([1.0, 0.0, None], lengths=[3, 4, 5])])
    right, wrong, missing = read_rollouts(tmp_path / "iteration_000001.jsonl.gz")
    assert right["task_id"] == "task-0"
    assert right["verifier"] == "math"
    assert right["truth"] == {"answer": "1"}
    assert right["response"] == "1"
    assert right["messages"] == [{"role": "user", "content": "0 + 1 = ?"}]
    assert (right["reward"], right["parts"], right["ungraded"]) == (1.0, {"correct": 1.0}, None)
    assert (missing["reward"], missing["ungraded"]) == (None, "sandbox lost")
    assert (wrong["prompt_tokens"], wrong["action_tokens"]) == (2, 4)
    assert wrong["logprob_mean_nats"] == -0.5
    assert wrong["stop_reason"] == "end_of_turn"
    assert wrong["without_signal"] is None


def test_a_dropped_group_says_why(tmp_path: Path) -> None:
    RolloutFiles(tmp_path, every=1).record(1, [make_group([1.0, 1.0])])
    entries = read_rollouts(tmp_path / "iteration_000001.jsonl.gz")
    assert {entry["without_signal"] for entry in entries} == {"all_right"}


def test_files_are_written_when_due_and_leave_nothing_unfinished(tmp_path: Path) -> None:
    files = RolloutFiles(tmp_path, every=2)
    for step in range(1, 5):
        files.record(step, [make_group([1.0, 0.0])])
    assert names(tmp_path) == ["iteration_000002.jsonl.gz", "iteration_000004.jsonl.gz"]


def test_no_file_is_written_when_switched_off(tmp_path: Path) -> None:
    RolloutFiles(tmp_path, every=0).record(1, [make_group([1.0, 0.0])])
    assert names(tmp_path) == []


def test_a_resume_removes_the_files_beyond_its_checkpoint(tmp_path: Path) -> None:
    files = RolloutFiles(tmp_path, every=1)
    for step in (1, 2, 3):
        files.record(step, [make_group([1.0, 0.0])])
    RolloutFiles(tmp_path, every=1, keep_through=1)
    assert names(tmp_path) == ["iteration_000001.jsonl.gz"]


def test_held_out_rollouts_have_files_and_a_kind_of_their_own(tmp_path: Path) -> None:
    files = RolloutFiles(tmp_path, every=2)
    for step in (0, 1, 2):
        files.record(step, [make_group([1.0, 1.0])], kind=RolloutKind.HELD_OUT)
    files.record(2, [make_group([1.0, 0.0])])
    held_out = ["heldout_000000.jsonl.gz", "heldout_000002.jsonl.gz"]
    assert names(tmp_path) == [*held_out, "iteration_000002.jsonl.gz"]
    entry = read_rollouts(tmp_path / "heldout_000002.jsonl.gz")[0]
    assert (entry["kind"], entry["without_signal"]) == ("heldout", None)
    assert read_rollouts(tmp_path / "iteration_000002.jsonl.gz")[0]["kind"] == "training"
    RolloutFiles(tmp_path, every=2, keep_through=1)
    assert names(tmp_path) == held_out[:1]


def test_equal_rollouts_make_equal_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        RolloutFiles(tmp_path / name, every=1).record(1, [make_group([1.0, 0.0])])
    first, second = (tmp_path / n / "iteration_000001.jsonl.gz" for n in "ab")
    assert first.read_bytes() == second.read_bytes()


def test_a_full_disk_costs_files_and_no_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = RolloutFiles(tmp_path, every=1)
    with full_disk(10):
        files.record(1, [make_group([1.0, 0.0])])
        files.record(2, [make_group([1.0, 0.0])])
    files.record(3, [make_group([1.0, 0.0])])
    assert files.num_failures == 2
    assert names(tmp_path) == ["iteration_000003.jsonl.gz"]
    (said,) = caplog.messages
    assert said.startswith(f"{tmp_path / 'iteration_000001.jsonl.gz'} cannot be written (")
    assert "the run goes on" in said
