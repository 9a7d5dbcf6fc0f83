"""The same command, given again, goes on where it can."""

from pathlib import Path

from cispo.config import RunConfig, TasksConfig
from launch.auto_resume import settle_resume


def settled(run_dir: Path, resume: str | None = "auto") -> tuple[str | None, bool]:
    tasks = TasksConfig(path="tasks.jsonl")
    cfg = RunConfig(run_dir=str(run_dir), resume=resume, tasks=tasks)
    settle_resume(cfg)
    return cfg.resume, cfg.overwrite


def test_a_first_start_is_a_fresh_run(tmp_path: Path) -> None:
    assert settled(tmp_path / "run") == (None, False)


def test_a_run_with_a_checkpoint_goes_on(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "iteration-00000003").mkdir(parents=True)
    assert settled(tmp_path) == (str(tmp_path), False)


def test_an_attempt_that_reached_no_checkpoint_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    (tmp_path / "checkpoints" / "unfinished-iteration-00000003").mkdir(parents=True)
    assert settled(tmp_path) == (None, True)


def test_a_folder_that_is_no_run_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    assert settled(tmp_path) == (None, False)


def test_any_other_resume_stays(tmp_path: Path) -> None:
    assert settled(tmp_path, "runs/x") == ("runs/x", False)
    assert settled(tmp_path, None) == (None, False)
