"""Ends a process with everything that it has started, at once (Linux, stdlib only)."""

import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import NoReturn


def end_now(code: int, message: str) -> NoReturn:
    """Say why, kill all descendants of this process, and leave without any clean-up."""
    with contextlib.suppress(OSError):
        os.write(sys.stderr.fileno(), f"{message}\n".encode())
    kill_descendants(os.getpid())
    os._exit(code)


def kill_descendants(root: int) -> None:
    """Kill all processes below `root`, whatever groups and sessions they are in.

    They are stopped first, until no new one appears: one that is killed alone leaves its children
    to another parent, and one that runs starts others meanwhile.
    """
    stopped: set[int] = set()
    while new := descendants(root) - stopped:
        for pid in new:
            _send(pid, signal.SIGSTOP)
        stopped |= new
    for pid in stopped:
        _send(pid, signal.SIGKILL)


def descendants(root: int) -> set[int]:
    """Processes below `root`, itself left out."""
    parents = {pid: parent for pid in _processes() if (parent := _parent(pid)) is not None}
    found: set[int] = set()
    new = {root}
    while new:
        new = {pid for pid, parent in parents.items() if parent in new} - found
        found |= new
    return found


def _processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _parent(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return None


def _send(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)
