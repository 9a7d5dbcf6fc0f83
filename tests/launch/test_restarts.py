"""Where a run goes on after its learner was lost."""

from pathlib import Path

import pytest

from cispo.checkpoint import Checkpoints
from cispo.errors import LearnerError, LearnerLostError
from cispo.types import PolicyVersion
from launch.restarts import Restarts
from launch.resume import Resume
from tests.fakes import FakeLearner

CONFIG = {"seed": 0}
LOST = LearnerLostError("learner rank 1 of 2 died during step")


async def write(folder: Path, *iterations: int) -> None:
    async with Checkpoints(folder, keep=9, config=CONFIG) as checkpoints:
        for iteration in iterations:
            await checkpoints.save(
                iteration=iteration,
                version=PolicyVersion(iteration + 1),
                next_task_index=4 * iteration,
                learner=FakeLearner(),
            )


def make_restarts(
    folder: Path, *, first: Resume | None = None, max_restarts: int = 2
) -> tuple[Restarts, list[str]]:
    said: list[str] = []
    first = first or Resume()
    return Restarts(folder, first, CONFIG, max_restarts=max_restarts, say=said.append), said


async def test_a_restart_goes_on_from_the_newest_checkpoint_and_says_so(tmp_path: Path) -> None:
    restarts, said = make_restarts(tmp_path)
    await write(tmp_path, 1, 2)
    resume = restarts.after(LOST, iteration=3)
    assert (resume.iteration, resume.next_task_index, resume.published_before) == (2, 8, 2)
    assert said == [
        "learner rank 1 of 2 died during step, in iteration 3; restart 1 of at most 2 in a row, "
        f"from {tmp_path / 'iteration-00000002'}"
    ]
    assert restarts.num_restarts == 1


async def test_a_broken_checkpoint_is_passed_over_and_that_is_said(tmp_path: Path) -> None:
    restarts, said = make_restarts(tmp_path)
    await write(tmp_path, 1, 2)
    (tmp_path / "iteration-00000002" / "learner").write_text("damaged")
    assert restarts.after(LOST, iteration=3).iteration == 1
    assert said[0].startswith("passed over: ")
    assert "iteration-00000002" in said[0]


def test_without_a_checkpoint_the_run_begins_again(tmp_path: Path) -> None:
    restarts, said = make_restarts(tmp_path)
    assert restarts.after(LOST, iteration=1) == Resume()
    assert said[0].endswith("from the start, without a checkpoint")


async def test_checkpoints_of_an_earlier_process_that_went_further_are_not_taken(
    tmp_path: Path,
) -> None:
    await write(tmp_path, 2, 4)
    first = Resume(checkpoint=tmp_path / "iteration-00000002", iteration=2)
    restarts, _ = make_restarts(tmp_path, first=first)
    assert restarts.after(LOST, iteration=3) == first


async def test_a_learner_that_is_lost_again_and_again_ends_the_run(tmp_path: Path) -> None:
    restarts, _ = make_restarts(tmp_path / "checkpoints", max_restarts=2)
    await write(tmp_path / "checkpoints", 1)
    restarts.after(LOST, iteration=2)
    restarts.after(LOST, iteration=2)
    with pytest.raises(LearnerError) as error:
        restarts.after(LOST, iteration=2)
    assert str(error.value) == (
        "learner rank 1 of 2 died during step, in iteration 2, after 2 restarts from "
        f"{tmp_path / 'checkpoints' / 'iteration-00000001'}; max_restarts=2. When the cause is "
        f"gone, continue with resume={tmp_path}"
    )


async def test_a_new_checkpoint_lets_the_count_begin_again(tmp_path: Path) -> None:
    restarts, _ = make_restarts(tmp_path, max_restarts=1)
    for iteration in (1, 2, 3):
        await write(tmp_path, iteration)
        assert restarts.after(LOST, iteration=iteration + 1).iteration == iteration
    assert restarts.num_restarts == 3
