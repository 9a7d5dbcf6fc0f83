"""Commands as a user calls them: in a process of their own, or faster in this one."""

import importlib
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def launch(
    *overrides: str, command: str = "train", path: str | None = None, folder: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """Run a command in its own process."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("HYDRA_FULL_ERROR", None)
    if path is not None:
        environment["PATH"] = path
    return subprocess.run(
        [sys.executable, "-m", f"launch.{command}", *overrides],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
        timeout=250,
        check=False,
    )


def call(
    *overrides: str, command: str = "train", folder: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """Run a command's `main` in this process; what it would end with a traceback is raised."""
    main = importlib.import_module(f"launch.{command}").main
    code: object = 0
    with (
        pytest.MonkeyPatch.context() as here,
        redirect_stdout(StringIO()) as out,
        redirect_stderr(StringIO()) as err,
    ):
        here.chdir(folder)
        here.setattr(sys, "argv", [f"launch.{command}", *overrides])
        here.setenv("HYDRA_FULL_ERROR", "0")  # which the command changes
        try:
            main()
        except SystemExit as ended:
            code = ended.code or 0
    assert isinstance(code, int)
    return subprocess.CompletedProcess(
        [*overrides], code, stdout=out.getvalue(), stderr=err.getvalue()
    )


def check_refused(ran: subprocess.CompletedProcess[str], *words: str) -> None:
    """One line that says what is wrong, exit code 2, and no traceback."""
    assert ran.returncode == 2, ran.stderr
    assert "Traceback" not in ran.stderr + ran.stdout
    lines = ran.stderr.strip().splitlines()
    assert len(lines) == 1, ran.stderr
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0]
