import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import wandb

from cispo.errors import ConfigError
from cispo.tracking.wandb import WandbTracker
from tests.fakes import make_group
from tests.waiting import wait_until


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, and a machine without W&B settings, credentials or a network to reach."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


def make_tracker(
    folder: Path, mode: Any = "offline", config: Mapping[str, Any] | None = None
) -> WandbTracker:
    return WandbTracker(
        folder, mode=mode, project="cispo", name="test", config=config or {"seed": 0}
    )


def test_an_offline_run_is_written_without_a_question_and_resumes_under_its_id(
    offline: Path,
) -> None:
    tracker = make_tracker(offline)
    tracker.record(1, [make_group([1.0, 0.0])])
    tracker.log(1, {"reward/mean": 0.5})
    tracker.finish({"iterations": 1})
    run_id = (offline / "wandb_run_id.txt").read_text().strip()
    assert tracker.num_failures == 0
    (written,) = (offline / "wandb").glob("offline-run-*/run-*.wandb")
    assert written.name == f"run-{run_id}.wandb"
    # W&B's own process writes the file, and goes on for a moment after `finish` returns.
    wait_until(lambda: b"reward/mean" in written.read_bytes(), what="W&B writes metrics")

    resumed = make_tracker(offline)
    resumed.log(2, {"reward/mean": 0.6})
    resumed.finish({})
    assert resumed.num_failures == 0
    assert {p.name for p in (offline / "wandb").glob("offline-run-*/run-*.wandb")} == {written.name}


def test_a_failure_is_counted_said_once_and_survived(
    offline: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = make_tracker(offline)
    wandb.run.finish()  # behind the tracker's back: whatever it sends now is refused
    with caplog.at_level(logging.WARNING, logger="cispo.tracking.wandb"):
        tracker.log(1, {"reward/mean": 0.5})
        tracker.log(2, {"reward/mean": 0.5})
    assert tracker.num_failures == 2
    assert caplog.text.count("W&B failed") == 1
    assert "the run goes on" in caplog.text


def test_a_run_that_cannot_start_does_not_stop_the_training(
    offline: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = make_tracker(offline, mode="no such mode")
    tracker.log(1, {"reward/mean": 0.5})
    tracker.record(1, [])
    tracker.finish({})
    assert tracker.num_failures == 4
    assert caplog.text.count("W&B failed to start") == 1


def test_online_without_credentials_is_refused_before_anything_starts(offline: Path) -> None:
    with pytest.raises(ConfigError, match=r"tracking.wandb_mode=online.*wandb login"):
        make_tracker(offline, mode="online")
