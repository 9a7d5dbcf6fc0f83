"""A broken checkpoint is never continued: the one before it is, and that is said."""

import json
from pathlib import Path

import pytest

from cispo.checkpoint import RunState, find_checkpoint, refuse_other_config
from cispo.errors import CheckpointError
from launch.resume import read_resume
from tests.checkpoint.saved import CONFIG, save

NEWEST = "iteration-00000003"


def missing_file(checkpoint: Path) -> None:
    (checkpoint / "shard" / "half").unlink()


def truncated_file(checkpoint: Path) -> None:
    (checkpoint / "weights").write_text("")


def flipped_byte(checkpoint: Path) -> None:
    (checkpoint / "weights").write_text("9")


def truncated_manifest(checkpoint: Path) -> None:
    manifest = checkpoint / "run.json"
    manifest.write_text(manifest.read_text()[:-40])


def missing_manifest(checkpoint: Path) -> None:
    (checkpoint / "run.json").unlink()


def changed_manifest(checkpoint: Path) -> None:
    manifest = checkpoint / "run.json"
    manifest.write_text(
        manifest.read_text().replace('"next_task_index": 96', '"next_task_index": 98')
    )


def foreign_manifest(checkpoint: Path) -> None:
    (checkpoint / "run.json").write_text('{"step": 3}')


DAMAGES = {
    missing_file: f"{NEWEST} is broken: shard/half is missing",
    truncated_file: f"{NEWEST} is broken: weights has 0 bytes instead of 1",
    flipped_byte: f"{NEWEST} is broken: weights has another checksum",
    truncated_manifest: f"{NEWEST} is broken: run.json cannot be read",
    missing_manifest: f"{NEWEST} is broken: run.json is missing",
    changed_manifest: f"{NEWEST} is broken: run.json has another checksum",
    foreign_manifest: f"{NEWEST}/run.json is not a checkpoint of this version",
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_the_one_before_a_broken_checkpoint_is_used_and_said(tmp_path: Path, damage) -> None:  # type: ignore[no-untyped-def]
    save(tmp_path / "checkpoints", 1, 2, 3)
    damage(tmp_path / "checkpoints" / NEWEST)
    resume = read_resume(str(tmp_path), CONFIG)
    assert (resume.iteration, resume.checkpoint) == (
        2,
        tmp_path / "checkpoints" / "iteration-00000002",
    )
    (skipped,) = resume.skipped
    assert DAMAGES[damage] in skipped


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_broken_checkpoint_that_was_named_itself_is_an_error(tmp_path: Path, damage) -> None:  # type: ignore[no-untyped-def]
    save(tmp_path, 2, 3)
    damage(tmp_path / NEWEST)
    with pytest.raises(CheckpointError) as error:
        read_resume(str(tmp_path / NEWEST), CONFIG)
    assert str(error.value).startswith(f"resume={tmp_path}")
    assert DAMAGES[damage] in str(error.value)


def test_where_all_are_broken_each_is_named(tmp_path: Path) -> None:
    save(tmp_path, 2, 3)
    missing_file(tmp_path / "iteration-00000002")
    flipped_byte(tmp_path / NEWEST)
    with pytest.raises(CheckpointError) as error:
        read_resume(str(tmp_path), CONFIG)
    assert str(error.value) == (
        f"resume={tmp_path}: no checkpoint can be used: "
        f"{tmp_path}/{NEWEST} is broken: weights has another checksum; "
        f"{tmp_path}/iteration-00000002 is broken: shard/half is missing"
    )


def test_an_unfinished_folder_is_passed_over_and_said(tmp_path: Path) -> None:
    save(tmp_path, 2)
    (tmp_path / f"unfinished-{NEWEST}").mkdir()
    (tmp_path / "unfinished-iteration-00000001").mkdir()
    found = find_checkpoint(tmp_path)
    assert found.state.iteration == 2
    assert found.skipped == (f"{tmp_path}/unfinished-{NEWEST} was never finished",)
    with pytest.raises(CheckpointError, match="was never finished; name another"):
        find_checkpoint(tmp_path / f"unfinished-{NEWEST}")


def test_a_run_that_died_in_its_first_checkpoint_has_none(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "unfinished-iteration-00000001").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"no complete checkpoint; .*1 was never finished"):
        find_checkpoint(tmp_path)


def test_of_many_broken_files_some_are_named_and_the_others_counted(tmp_path: Path) -> None:
    save(tmp_path, 3)
    manifest = json.loads((tmp_path / NEWEST / "run.json").read_text())
    assert sorted(manifest["files"]) == ["shard/half", "weights"]
    assert {len(entry["sha256"]) for entry in manifest["files"].values()} == {64}
    missing_file(tmp_path / NEWEST)
    flipped_byte(tmp_path / NEWEST)
    with pytest.raises(CheckpointError, match=r"half is missing; weights has another checksum$"):
        find_checkpoint(tmp_path)


def test_a_run_folder_stands_for_its_newest_checkpoint(tmp_path: Path) -> None:
    save(tmp_path / "checkpoints", 9, 10)
    newest = tmp_path / "checkpoints" / "iteration-00000010"
    for named in (tmp_path, tmp_path / "checkpoints", newest):
        assert find_checkpoint(named).path == newest


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        find_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="no such folder"):
        find_checkpoint(tmp_path / "absent")


def saved_state(folder: Path) -> RunState:
    save(folder, 1)
    return find_checkpoint(folder).state


def test_another_configuration_is_refused_by_key_and_both_values(tmp_path: Path) -> None:
    state = saved_state(tmp_path)
    other = {**CONFIG, "seed": 8, "objective": {"kind": "cispo", "ratio_max": 4.0}}
    with pytest.raises(CheckpointError) as error:
        refuse_other_config(state, other)
    assert "seed is 8, the checkpoint has 7" in str(error.value)
    assert "objective.ratio_max is 4.0, the checkpoint has 5.0" in str(error.value)
    assert "kind" not in str(error.value)


def test_more_iterations_and_other_tracking_are_no_other_run(tmp_path: Path) -> None:
    state = saved_state(tmp_path)
    refuse_other_config(state, CONFIG)
    longer = {**CONFIG, "iterations": 99, "tracking": {"wandb_mode": "disabled"}}
    refuse_other_config(state, longer)


def test_other_processes_are_no_other_run_but_another_optimizer_is(tmp_path: Path) -> None:
    state = saved_state(tmp_path)
    optimizer = {"lr": 1e-6}
    wider = {"num_ranks": 4, "zero_stage": 3, "optimizer": optimizer}
    refuse_other_config(state, {**CONFIG, "learner": wider})
    faster = {"num_ranks": 1, "zero_stage": 1, "optimizer": {"lr": 1e-5}}
    with pytest.raises(CheckpointError, match=r"learner\.optimizer\.lr is 1e-05"):
        refuse_other_config(state, {**CONFIG, "learner": faster})
