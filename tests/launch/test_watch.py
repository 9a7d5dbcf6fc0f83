import sys
from pathlib import Path

import pytest

from cispo.config.watch import WatchConfig
from cispo.errors import ConfigError
from launch import watch
from launch.watching import run_watch


def test_a_folder_without_a_run_is_refused_before_anything_listens(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^run=.*: no such run; name a folder with"):
        run_watch(WatchConfig(run=str(tmp_path)))


@pytest.mark.parametrize(
    ("arguments", "composed"),
    [
        (["runs/smoke"], ["run='runs/smoke'"]),
        (["runs/a b", "port=0"], ["run='runs/a b'", "port=0"]),
        (["run=runs/smoke"], ["run=runs/smoke"]),
        (["--help"], ["--help"]),
        ([], []),
    ],
)
def test_a_folder_alone_is_that_of_the_run(
    arguments: list[str], composed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["watch", *arguments])
    monkeypatch.setattr(watch, "run_command", lambda *_: None)
    watch.main()
    assert sys.argv[1:] == composed
