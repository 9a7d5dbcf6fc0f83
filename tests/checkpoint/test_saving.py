"""Checkpoints are written beside the run, whole or not at all, and a full disk costs no run."""

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cispo.checkpoint import find_checkpoint
from cispo.errors import CheckpointError, LearnerError
from tests.checkpoint.saved import (
    CONFIG,
    SCHEDULES,
    Learner,
    begin,
    checkpoints_in,
    full_disk,
    names,
    save,
)
from tests.fakes import make_group
from tests.waiting import until


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    save(tmp_path, 3)
    found = find_checkpoint(tmp_path)
    state = found.state
    assert (state.iteration, state.version, state.next_task_index) == (3, 4, 96)
    assert (state.config, state.tracker_run_id, found.skipped) == (CONFIG, "abc123", ())
    assert state.schedules == SCHEDULES
    learner = Learner()
    asyncio.run(learner.restore(found.path))
    assert learner.number == 3


def test_only_the_newest_are_kept_with_what_was_made_of_them(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)
    for iteration in (1, 2):
        (tmp_path / f"iteration-0000000{iteration}-universal").mkdir()
    save(tmp_path, 3)
    kept = ["iteration-00000002", "iteration-00000002-universal", "iteration-00000003"]
    assert names(tmp_path) == kept


async def test_the_run_goes_on_while_the_learner_of_before_is_written(tmp_path: Path) -> None:
    learner = Learner(5)
    async with checkpoints_in(tmp_path) as checkpoints:
        learner.gate.clear()
        await begin(checkpoints, learner, 1)
        assert learner.events == ["asked 5"]
        await learner.step([])
        assert names(tmp_path) == ["unfinished-iteration-00000001"]
        second = asyncio.create_task(begin(checkpoints, learner, 2))
        for _ in range(5):
            await asyncio.sleep(0)
        assert learner.events == ["asked 5", "step 5"]
        learner.gate.set()
        await second
    assert learner.events == ["asked 5", "step 5", "saved 5", "asked 6", "saved 6"]
    assert (tmp_path / "iteration-00000001" / "weights").read_text() == "5"
    assert (tmp_path / "iteration-00000002" / "weights").read_text() == "6"


async def test_checksums_and_disk_do_not_hold_up_the_event_loop(tmp_path: Path) -> None:
    """The loop's thread turns while a checkpoint is sealed, renamed and cleared up after."""
    learner, threads = Learner(), set[int]()
    renamed = os.rename

    def noting(*arguments: object, **options: object) -> None:
        threads.add(threading.get_ident())
        renamed(*arguments, **options)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "rename", noting)
        async with checkpoints_in(tmp_path) as checkpoints:
            await begin(checkpoints, learner, 1)
            final = tmp_path / "iteration-00000001"
            await until(final.exists, what="the checkpoint is there while the run goes on")
    assert threads
    assert threading.get_ident() not in threads


async def test_the_end_of_the_block_waits_for_the_write_however_it_ends(tmp_path: Path) -> None:
    learner = Learner()
    learner.gate.clear()

    async def stopped() -> None:
        async with checkpoints_in(tmp_path) as checkpoints:
            await begin(checkpoints, learner, 1)
            raise asyncio.CancelledError

    ending = asyncio.create_task(stopped())
    await until(lambda: learner.events == ["asked 0"], what="the learner is asked")
    assert not ending.done()
    learner.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await ending
    assert find_checkpoint(tmp_path).state.iteration == 1


async def test_a_full_disk_costs_a_checkpoint_and_not_the_run(tmp_path: Path) -> None:
    said: list[str] = []
    learner = Learner()
    async with checkpoints_in(tmp_path, keep=1, warn=said.append) as checkpoints:
        await begin(checkpoints, learner, 1)
        await checkpoints.settle()
        learner.failure = full_disk()
        await begin(checkpoints, learner, 2)
        await checkpoints.settle()
        assert names(tmp_path) == ["iteration-00000001"]
        assert checkpoints.lap()["checkpoint/failures"] == 1.0
        learner.failure = None
        await begin(checkpoints, learner, 3)
        await checkpoints.settle()
        assert checkpoints.lap()["checkpoint/failures"] == 1.0
    assert names(tmp_path) == ["iteration-00000003"]
    assert said == [
        f"checkpoint {tmp_path}/iteration-00000002 could not be written: learner.pt: no space is "
        f"left on the disk (0 bytes are free); the newest is {tmp_path}/iteration-00000001; "
        "the run goes on and tries again at its next checkpoint"
    ]


async def test_at_the_end_of_the_run_a_lost_checkpoint_is_an_error(tmp_path: Path) -> None:
    learner = Learner()
    learner.failure = full_disk()

    async def run() -> None:
        async with checkpoints_in(tmp_path) as checkpoints:
            await begin(checkpoints, learner, 4)

    with pytest.raises(CheckpointError, match=r"00000004 could not be written.*; there is none"):
        await run()
    assert names(tmp_path) == []


async def test_what_ended_the_run_is_not_hidden_by_a_lost_checkpoint(tmp_path: Path) -> None:
    said: list[str] = []
    learner = Learner()
    learner.failure = full_disk()

    async def run() -> None:
        async with checkpoints_in(tmp_path, warn=said.append) as checkpoints:
            await begin(checkpoints, learner, 4)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await run()
    assert "iteration-00000004 could not be written" in said[0]


async def test_a_rank_that_dies_while_it_saves_is_no_full_disk(tmp_path: Path) -> None:
    learner = Learner()
    learner.failure = LearnerError("learner rank 1 of 2 died during save")
    async with checkpoints_in(tmp_path) as checkpoints:
        await begin(checkpoints, learner, 1)
        with pytest.raises(LearnerError, match="rank 1 of 2 died"):
            await begin(checkpoints, learner, 2)
        assert checkpoints.lap() == {"checkpoint/failures": 0.0}


async def test_a_crash_in_the_middle_leaves_the_old_one_and_the_next_save_clears_up(
    tmp_path: Path,
) -> None:
    learner = Learner()
    checkpoints = checkpoints_in(tmp_path, keep=1)
    await begin(checkpoints, learner, 1)
    await checkpoints.settle()
    learner.failure = LearnerError("killed in the middle")
    await begin(checkpoints, learner, 2)
    with pytest.raises(LearnerError, match="in the middle"):
        await checkpoints.settle()
    assert names(tmp_path) == ["iteration-00000001", "unfinished-iteration-00000002"]
    assert find_checkpoint(tmp_path).state.iteration == 1
    learner.failure = None
    async with checkpoints_in(tmp_path, keep=1) as checkpoints:
        await begin(checkpoints, learner, 2)
    assert names(tmp_path) == ["iteration-00000002"]


def test_the_same_iteration_may_be_written_again(tmp_path: Path) -> None:
    save(tmp_path, 2, 2)
    assert names(tmp_path) == ["iteration-00000002"]
    assert find_checkpoint(tmp_path).state.iteration == 2


def test_a_resume_from_an_earlier_checkpoint_discards_the_course_it_left(tmp_path: Path) -> None:
    save(tmp_path, 1, 2, 3, 2, keep=3)
    assert names(tmp_path) == ["iteration-00000001", "iteration-00000002"]
    assert find_checkpoint(tmp_path).state.iteration == 2


async def test_the_seconds_of_a_write_are_told_once(tmp_path: Path) -> None:
    async with checkpoints_in(tmp_path) as checkpoints:
        await begin(checkpoints, Learner(), 1, [make_group([1.0, 0.0])])
        await checkpoints.settle()
        assert checkpoints.lap()["time/checkpoint_write_seconds"] > 0
        assert checkpoints.lap() == {"checkpoint/failures": 0.0}


ON_A_SMALL_DISK = """
import asyncio, sys
from pathlib import Path
from tests.checkpoint.saved import Learner, begin, checkpoints_in, names

class Growing(Learner):
    async def save(self, folder):
        await super().save(folder)
        (folder / "weights").write_bytes(bytes(self.number * 2**20))

async def main(folder):
    learner = Growing()
    async with checkpoints_in(folder, keep=1) as checkpoints:
        for number in (3, 9, 2):
            learner.number = number
            await begin(checkpoints, learner, number)
            await checkpoints.settle()
            print(names(folder))

asyncio.run(main(Path(sys.argv[1])))
"""


def test_a_disk_that_is_really_full_is_survived(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
    try:
        ran = subprocess.run(
            [sys.executable, "-c", ON_A_SMALL_DISK, str(disk)],
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    assert ran.returncode == 0, ran.stderr
    first, warning, second, third = ran.stdout.splitlines()
    assert first == second == "['iteration-00000003']"
    assert third == "['iteration-00000002']"
    assert f"{disk}/iteration-00000009 could not be written: no space is left" in warning
    assert f"the newest is {disk}/iteration-00000003" in warning
