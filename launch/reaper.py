"""Ends what a process has started soon after that process is gone, however it ended.

Ray's daemons share the fate of the driver that started them, and its workers that of the daemons.
Two agents of Ray do not: after a SIGKILL of the driver they lived for more than a minute. This file
runs as a small process beside the driver (Linux, stdlib only, also as a script by its path).
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def reaped(processes: Iterable[int]) -> Iterator[None]:
    """Kill those of these processes that are alive when the block, or this process, has ended."""
    named = [f"{pid}:{start}" for pid in processes if (start := started(pid)) is not None]
    reaper = subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, *named],
        stdin=subprocess.PIPE,
        start_new_session=True,  # a terminal's Ctrl-C is not for it
    )
    assert reaper.stdin is not None
    try:
        yield
    finally:
        reaper.stdin.close()
        reaper.wait()


def started(pid: int) -> int | None:
    """When a process started, in clock ticks, by which it is told from another of the same id."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (FileNotFoundError, ProcessLookupError):
        return None


def main() -> None:
    """Wait for the end of the standard input, which comes with the death of who holds it."""
    sys.stdin.buffer.read()
    for name in sys.argv[1:]:
        pid, start = map(int, name.split(":"))
        if started(pid) == start:
            os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
