import contextlib
import logging
import os
import signal
import socket
from collections.abc import Iterator, Mapping
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
    folder: Path, mode: Any = "offline", config: Mapping[str, Any] | None = None, **more: Any
) -> WandbTracker:
    return WandbTracker(
        folder, mode=mode, project="cispo", name="test", config=config or {"seed": 0}, **more
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


def services_of_this_process() -> list[int]:
    """The processes that W&B started: children of ours."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            command = (stat.parent / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == os.getpid() and b"wandb-core" in command:
            found.append(int(stat.parent.name))
    return found


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_service_that_dies_or_hangs_ends_no_run(
    offline: Path, caplog: pytest.LogCaptureFixture, number: signal.Signals
) -> None:
    tracker = make_tracker(offline)
    tracker.log(1, {"reward/mean": 0.5})
    assert tracker.num_failures == 0
    tracker._deadline_seconds = 1.0  # no call will be answered from here on
    (service,) = services_of_this_process()
    os.kill(service, number)
    for step in range(2, 5):
        tracker.log(step, {"reward/mean": 0.5, **{f"x/{i}": 0.5 for i in range(20_000)}})
    tracker.finish({"iterations": 3})
    assert tracker.num_failures >= 1
    assert caplog.text.count("W&B failed to") == 1
    assert "the run goes on" in caplog.text
    wait_until(lambda: is_gone(service), what="W&B's service is gone")
    with contextlib.suppress(ConnectionError):
        wandb.teardown()  # what W&B does when the interpreter ends, and must not wait for ever in


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_a_run_goes_on_under_the_id_that_its_checkpoint_names(offline: Path) -> None:
    tracker = make_tracker(offline, run_id="abcd1234")
    tracker.finish({})
    assert tracker.run_id == "abcd1234"
    assert (offline / "wandb_run_id.txt").read_text() == "abcd1234\n"
    again = make_tracker(offline)
    again.finish({})
    assert again.run_id == "abcd1234"


@pytest.fixture
def key(offline: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Credentials that look right, for this test alone."""
    wandb.teardown()  # what it knows of the environment is that of an earlier test
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    yield
    wandb.teardown()


@pytest.mark.usefixtures("key")
@pytest.mark.parametrize("listens", [True, False])
def test_a_server_that_refuses_or_never_answers_costs_the_dashboard_and_not_the_run(
    offline: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, listens: bool
) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if listens:
            server.listen()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        tracker = make_tracker(offline, mode="online", deadline_seconds=1.0)
        tracker.log(1, {"reward/mean": 0.5})
        tracker.finish({})
    assert tracker.num_failures == 3
    said = [r.getMessage() for r in caplog.records if r.name == "cispo.tracking.wandb"]
    assert said == [
        "W&B failed to start (TimeoutError: no answer in 1 s); the run goes on, metrics.jsonl has "
        "everything"
    ]
    # the interpreter would wait for it at its end
    wait_until(lambda: services_of_this_process() == [], what="W&B's service is gone")


@pytest.mark.usefixtures("key")
def test_what_cannot_be_a_key_is_refused(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "too short")
    with pytest.raises(ConfigError, match=r"^tracking.wandb_mode=online: WANDB_API_KEY invalid"):
        make_tracker(offline, mode="online")


def test_online_without_credentials_is_refused_before_anything_starts(offline: Path) -> None:
    with pytest.raises(ConfigError, match=r"tracking.wandb_mode=online.*wandb login"):
        make_tracker(offline, mode="online")
