"""What a run says is shown, and kept with the time."""

from datetime import UTC, datetime
from pathlib import Path

from cispo.tracking.log_file import LogFile


def test_a_line_is_shown_and_kept_with_the_time(tmp_path: Path) -> None:
    shown: list[str] = []
    noon = datetime(2026, 11, 22, 12, 0, 1, tzinfo=UTC)
    say = LogFile(tmp_path / "log.txt", shown.append, clock=lambda: noon)
    say("passed over: a")
    say("resuming from é")
    say.keep("error: b")
    assert shown == ["passed over: a", "resuming from é"]
    assert (tmp_path / "log.txt").read_text(encoding="utf-8") == (
        "2026-11-22 12:00:01 UTC  passed over: a\n2026-11-22 12:00:01 UTC  resuming from é\n"
        "2026-11-22 12:00:01 UTC  error: b\n"
    )


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    shown: list[str] = []
    say = LogFile(tmp_path / "absent" / "log.txt", shown.append)
    say("the disk is full")
    assert shown[0] == "the disk is full"
    assert "log.txt cannot be written: " in shown[1]
