"""What a run has tracked after its learner was started again."""

from pathlib import Path

from cispo.config import TrackingConfig
from cispo.tracking.history import read_history
from cispo.tracking.summary import summarise
from launch.resume import Resume
from launch.trackers import RunTrackers
from tests.fakes import FakeTracker, make_group


def make_trackers(folder: Path) -> RunTrackers:
    return RunTrackers(
        TrackingConfig(wandb_mode="disabled"),
        folder,
        Resume(),
        name="run",
        config={},
        console=FakeTracker(),
    )


def log(trackers: RunTrackers, *steps: int) -> None:
    for step in steps:
        trackers.record(step, [make_group([1.0, 0.0])])
        trackers.log(step, {"reward/mean": float(step)})


def restarts(folder: Path) -> dict[int, float]:
    return {
        step: line["faults/learner_restarts"]
        for step, line in read_history(folder / "metrics.jsonl")
    }


def test_a_restart_forgets_the_steps_after_its_checkpoint_and_is_counted(tmp_path: Path) -> None:
    trackers = make_trackers(tmp_path)
    log(trackers, 1, 2, 3)
    trackers.restart(Resume(checkpoint=tmp_path, iteration=2))
    assert trackers.last_step == 2
    assert restarts(tmp_path) == {1: 0, 2: 0}
    assert len(list((tmp_path / "rollouts").iterdir())) == 2
    log(trackers, 3, 4)
    assert restarts(tmp_path) == {1: 0, 2: 0, 3: 1, 4: 0}


def test_a_restart_whose_line_is_forgotten_is_still_counted(tmp_path: Path) -> None:
    trackers = make_trackers(tmp_path)
    log(trackers, 1)
    trackers.restart(Resume())
    assert restarts(tmp_path) == {}
    log(trackers, 1)
    trackers.restart(Resume())
    log(trackers, 1, 2)
    assert restarts(tmp_path) == {1: 2, 2: 0}
    summary = summarise(read_history(tmp_path / "metrics.jsonl"))
    assert summary["faults"] == {"learner_restarts": 2.0}


def test_a_run_that_logged_nothing_is_closed_without_a_report(tmp_path: Path) -> None:
    make_trackers(tmp_path).conclude()
    assert not (tmp_path / "summary.json").exists()
