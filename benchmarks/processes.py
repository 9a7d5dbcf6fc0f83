"""The processes that this one has started, with what they use; a part of other benchmarks."""

import os
from collections.abc import Iterator
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def descendants() -> Iterator[tuple[int, bytes]]:
    """Yield number and command line of each process that this one started, at any remove."""
    parents, commands = {}, {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            commands[int(entry.name)] = (entry / "cmdline").read_bytes()
            parents[int(entry.name)] = int(_fields(int(entry.name))[1])
        except OSError:
            continue  # it ended meanwhile
    for pid, command in commands.items():
        if _is_descendant(pid, parents):
            yield pid, command


def cpu_seconds() -> float:
    """Processor time of this process, its descendants, and those of theirs that have ended."""
    ticks = 0
    for pid in (os.getpid(), *(pid for pid, _ in descendants())):
        try:
            ticks += sum(map(int, _fields(pid)[11:15]))
        except OSError:
            continue
    return ticks / _TICKS


def resident_bytes(pid: int) -> int:
    """Resident memory of a process, 0 where it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0


def peak_bytes(pid: int) -> int:
    """The most that a process had resident until now, 0 where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def _fields(pid: int) -> list[str]:
    """Return the words of /proc/PID/stat from the process's state on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _is_descendant(pid: int, parents: dict[int, int]) -> bool:
    while pid in parents:
        pid = parents[pid]
        if pid == os.getpid():
            return True
    return False
