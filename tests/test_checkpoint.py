import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from cispo.checkpoint import (
    Checkpoints,
    complete_checkpoints,
    find_checkpoint,
    load_state,
    refuse_other_config,
)
from cispo.errors import CheckpointError
from cispo.types import Metrics, PolicyVersion, Sample

CONFIG = {
    "seed": 7,
    "iterations": 10,
    "objective": {"kind": "cispo", "ratio_max": 5.0},
    "tasks": {"sources": [{"name": "sums", "weight": 1.0}]},
    "tracking": {"wandb_mode": "offline"},
}


class Learner:
    """Writes its number; can die while it does."""

    def __init__(self) -> None:
        self.number = 0
        self.dies = False

    async def step(self, samples: Sequence[Sample]) -> Metrics:
        raise NotImplementedError

    async def save(self, folder: Path) -> None:
        (folder / "shard").mkdir()
        (folder / "shard" / "half").write_text("half")
        if self.dies:
            raise OSError("killed in the middle")
        (folder / "weights").write_text(str(self.number))

    async def restore(self, folder: Path) -> None:
        self.number = int((folder / "weights").read_text())


def save(folder: Path, learner: Learner, *, iteration: int, keep: int = 2) -> None:
    asyncio.run(saved(Checkpoints(folder, keep=keep, config=CONFIG), learner, iteration))


async def saved(checkpoints: Checkpoints, learner: Learner, iteration: int) -> None:
    learner.number = iteration
    async with checkpoints:
        await checkpoints.save(
            iteration=iteration,
            version=PolicyVersion(iteration + 1),
            next_task_index=iteration * 32,
            learner=learner,
        )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    learner = Learner()
    save(tmp_path, learner, iteration=3)
    state = find_checkpoint(tmp_path).state
    assert (state.iteration, state.version, state.next_task_index) == (3, 4, 96)
    assert state.config == CONFIG
    learner.number = -1
    asyncio.run(learner.restore(find_checkpoint(tmp_path).path))
    assert learner.number == 3


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for iteration in (1, 2, 3, 4):
        save(tmp_path, Learner(), iteration=iteration, keep=2)
    assert names(tmp_path) == ["iteration-00000003", "iteration-00000004"]


def test_a_crash_in_the_middle_leaves_the_old_one_valid_and_no_half_one(tmp_path: Path) -> None:
    learner = Learner()
    save(tmp_path, learner, iteration=1, keep=1)
    learner.dies = True
    with pytest.raises(CheckpointError, match="iteration-00000002 could not be written: killed"):
        save(tmp_path, learner, iteration=2, keep=1)
    assert [path.name for path in complete_checkpoints(tmp_path)] == ["iteration-00000001"]
    assert find_checkpoint(tmp_path).state.iteration == 1
    learner.dies = False
    save(tmp_path, learner, iteration=2, keep=1)
    assert names(tmp_path) == ["iteration-00000002"]


def test_the_same_iteration_may_be_written_again(tmp_path: Path) -> None:
    save(tmp_path, Learner(), iteration=2)
    save(tmp_path, Learner(), iteration=2)
    assert names(tmp_path) == ["iteration-00000002"]
    assert find_checkpoint(tmp_path).state.iteration == 2


def test_a_resume_from_an_earlier_checkpoint_discards_the_course_it_left(tmp_path: Path) -> None:
    for iteration in (1, 2, 3):
        save(tmp_path, Learner(), iteration=iteration, keep=3)
    save(tmp_path, Learner(), iteration=2, keep=3)
    assert names(tmp_path) == ["iteration-00000001", "iteration-00000002"]
    assert find_checkpoint(tmp_path).state.iteration == 2


def test_a_run_folder_stands_for_its_newest_checkpoint(tmp_path: Path) -> None:
    for iteration in (9, 10):
        save(tmp_path / "checkpoints", Learner(), iteration=iteration)
    newest = tmp_path / "checkpoints" / "iteration-00000010"
    assert find_checkpoint(tmp_path).path == newest
    assert find_checkpoint(tmp_path / "checkpoints").path == newest
    assert find_checkpoint(newest).path == newest


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        find_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="no such folder"):
        find_checkpoint(tmp_path / "absent")


@pytest.mark.parametrize("damage", ["missing", "truncated", "unreadable", "foreign"])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, damage: str) -> None:
    save(tmp_path, Learner(), iteration=12345)
    checkpoint = find_checkpoint(tmp_path).path
    match damage:
        case "missing":
            (checkpoint / "shard" / "half").unlink()
        case "truncated":
            (checkpoint / "weights").write_text("1")
        case "unreadable":
            (checkpoint / "run.json").write_text("{")
        case "foreign":
            (checkpoint / "run.json").write_text('{"step": 3}')
    with pytest.raises(CheckpointError, match=r"half is missing|weights has 1|run\.json"):
        load_state(checkpoint)


def test_another_configuration_is_refused_by_key_and_both_values(tmp_path: Path) -> None:
    save(tmp_path, Learner(), iteration=1)
    state = find_checkpoint(tmp_path).state
    other = {**CONFIG, "seed": 8, "objective": {"kind": "cispo", "ratio_max": 4.0}}
    with pytest.raises(CheckpointError) as error:
        refuse_other_config(state, other)
    assert "seed is 8, the checkpoint has 7" in str(error.value)
    assert "objective.ratio_max is 4.0, the checkpoint has 5.0" in str(error.value)
    assert "kind" not in str(error.value)


def test_more_iterations_and_other_tracking_are_no_other_run(tmp_path: Path) -> None:
    save(tmp_path, Learner(), iteration=1)
    state = find_checkpoint(tmp_path).state
    refuse_other_config(state, CONFIG)
    longer = {**CONFIG, "iterations": 99, "tracking": {"wandb_mode": "disabled"}}
    refuse_other_config(state, longer)
