"""A checkpoint of another learner is converted before any rank starts."""

import asyncio
import threading
from pathlib import Path

import pytest

from cispo.checkpoint.finding import converted_folder
from cispo.config import LearnerConfig
from launch.converting import convert_for
from launch.resume import Resume
from tests.fakes import FakeProgress
from tests.learner.folded import ThreeTables
from tests.learner.tables import local_learner
from tests.waiting import PATIENCE_SECONDS, until

PHASE = "convert checkpoint"


def saved(folder: Path) -> Resume:
    """What a local learner of three parameters saved."""
    checkpoint = folder / "iteration-00000001"
    checkpoint.mkdir()
    local_learner(ThreeTables()).save(checkpoint)
    return Resume(checkpoint=checkpoint, iteration=1)


async def test_each_parameter_is_an_event(tmp_path: Path) -> None:
    resume, progress = saved(tmp_path), FakeProgress()
    assert resume.checkpoint
    await convert_for(LearnerConfig(backend="deepspeed"), resume, progress)
    assert converted_folder(resume.checkpoint).is_dir()
    assert progress.events == [f"start {PHASE} 3", f"finish {PHASE}"]
    assert progress.done == {PHASE: 3}
    assert progress.waited[0] == "parameters after table"


@pytest.mark.parametrize("is_fresh", [True, False])
async def test_a_learner_that_can_read_it_as_it_is_waits_for_nothing(
    tmp_path: Path, is_fresh: bool
) -> None:
    resume, progress = Resume() if is_fresh else saved(tmp_path), FakeProgress()
    await convert_for(LearnerConfig(backend="local"), resume, progress)
    assert progress.events == []


async def test_a_conversion_that_is_given_up_ends_with_the_parameter_at_hand(
    tmp_path: Path,
) -> None:
    resume, told, go_on = saved(tmp_path), threading.Event(), threading.Event()

    class Slow(FakeProgress):
        def advance(self, phase: str, count: int = 1) -> None:
            told.set()
            assert go_on.wait(PATIENCE_SECONDS)
            super().advance(phase, count)

    converting = asyncio.create_task(convert_for(LearnerConfig(), resume, progress := Slow()))
    await until(told.is_set, what="a parameter is converted")
    converting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await converting
    go_on.set()
    await until(lambda: len([*tmp_path.iterdir()]) == 1, what="nothing is left")
    assert progress.done == {PHASE: 1}
