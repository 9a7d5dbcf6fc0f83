"""A small real run of the training command, its processes by kind, and what it recorded."""

import gzip
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

ROOT = Path(__file__).parents[2]
MARK = "CISPO_TEST_RUN"
"""Variable of the environment by which all processes of one run are found."""

SUMS = (
    "{kind: reasoning_gym, name: chain_sum, size: 500, "
    "options: {min_terms: 2, max_terms: 2, min_digits: 1, max_digits: 1}}"
)
PROGRAMS = "{kind: code_family, name: write_program, size: 500}"

LITTLE = (
    "experiment=smoke",
    "tracking.wandb_mode=disabled",
    "tasks_per_iteration=4",
    "group_size=4",
    "updates_per_iteration=2",
    # a barely trained policy is never right; how long it writes is the signal
    "objective.dynamic_sampling=false",
    "reward.weights.overlong=1.0",
)
"""What all small runs have in common."""

KINDS: Mapping[str, Sequence[str]] = {
    "driver": ("-m launch.train",),
    "learner rank": ("ray::LearnerActor",),
    "rollout actor": ("ray::RolloutActor",),
    "reward worker": ("ray::RewardWorker",),
    "sandbox": ("cispo-server", "cispo-keeper", "cispo-room", "cispo-program"),
}


def start(module: str, *overrides: str, mark: str = "") -> subprocess.Popen[str]:
    """Start a command as a user would, in a session of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *overrides],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, MARK: mark},
    )


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for a command that must succeed, and return what it printed."""
    output, _ = process.communicate(timeout=500)
    assert process.returncode == 0, output
    return output


def once(folders: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that is made by the first of all tests, on all workers, that asks for it."""
    own = folders.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / name
    made = folder.with_suffix(".made")
    with FileLock(f"{folder}.lock"):
        if not made.exists():
            make(folder)
            made.touch()
    return folder


def cold_start(folders: pytest.TempPathFactory) -> str:
    """A policy that was barely trained on sums and programs."""
    experiment = ("experiment=smoke_cold_start", "tracking.wandb_mode=disabled")
    few = ("steps=60", "batch_tasks=16", f"tasks.sources=[{SUMS}, {PROGRAMS}]")

    def make(folder: Path) -> None:
        finish(start("launch.sft", *experiment, *few, f"run_dir={folder}", "overwrite=true"))

    return str(once(folders, "cold_start", make) / "policy")


def processes(mark: str, kind: str) -> list[int]:
    """Living processes of a kind that belong to a run, or descend from one that does."""
    parents: dict[int, int] = {}
    marked: set[int] = set()
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text()
            shown = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            environment = (entry / "environ").read_bytes()
        except OSError:  # it has ended meanwhile
            continue
        pid = int(entry.name)
        name, rest = stat[stat.index("(") + 1 : stat.rindex(")")], stat[stat.rindex(")") + 2 :]
        parents[pid] = int(rest.split()[1])
        if f"{MARK}={mark}".encode() in environment.split(b"\0"):
            marked.add(pid)
        if rest[0] != "Z" and any(text in shown or text == name for text in KINDS[kind]):
            found.append(pid)
    return [pid for pid in found if not marked.isdisjoint(_line_of(pid, parents))]


def _line_of(pid: int, parents: Mapping[int, int]) -> Iterator[int]:
    while pid:
        yield pid
        pid = parents.get(pid, 0)


def kill(pid: int) -> bool:
    """Whether the process was there to be killed."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def lines(folder: Path) -> list[dict[str, Any]]:
    """What the run has logged so far; a line that is being written is left out."""
    try:
        whole = (folder / "metrics.jsonl").read_text().rpartition("\n")[0]
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in whole.splitlines()]


def learned(folder: Path) -> list[dict[str, Any]]:
    """The run's lines without what a clock measured, or depends on it or on faults."""
    timed = ("time/", "engine/", "overlap/", "faults/", "checkpoint/")
    return [{k: v for k, v in line.items() if not k.startswith(timed)} for line in lines(folder)]


def rollouts(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Recorded rollouts by file."""
    return {
        path.name: [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
        for path in sorted((folder / "rollouts").glob("*.gz"))
    }
