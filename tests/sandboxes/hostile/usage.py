"""What the host reads of processes and passwords."""

import os
from pathlib import Path


def num_tasks(pid: int) -> int:
    """Return how many threads a process has, none where it has ended."""
    try:
        return len(os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return 0


def resident_bytes(pid: int) -> int:
    """Return the anonymous memory of a process, its part of what it shares."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss_Anon:"))


def password_lines() -> list[bytes]:
    """Return the lines of the machine's passwords that nobody says by chance."""
    try:
        return [line for line in Path("/etc/shadow").read_bytes().splitlines() if len(line) > 8]
    except OSError:
        return []
