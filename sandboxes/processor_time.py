"""Processor time of a tree of processes: how much it used, and how long it waited for more."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

_SHARE = 0.5
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def tree_cpu_seconds(roots: Iterable[int]) -> float:
    """Return the CPU time of processes, their descendants and those they buried, to 0.01 s."""
    ticks = 0
    for process in _trees(roots):
        try:
            after_name = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += sum(int(field) for field in after_name[11:15])
    return ticks / _TICKS_PER_SECOND


def was_starved(
    roots: Iterable[int], *, wall_seconds: float, cpus: float, used_seconds: float = 0.0
) -> bool:
    """Decide whether trees of processes spent its time waiting for a processor.

    True where one of its tasks was ready to run, and was not run, for at least half of the wall
    time while the whole tree got less than half of what it was allowed. A sleeping program is not
    ready to run, a program that competes only with itself gets its allowance, and a task that gave
    up its place in the queue does not count, so a program cannot bring this about.

    Args:
        roots: Roots of the trees, which must still be there.
        wall_seconds: How long the tree has been running.
        cpus: CPUs that it may use at once.
        used_seconds: CPU time that it is known to have used, the dead included.
    """
    ran, longest_wait = 0.0, 0.0
    for process in _trees(roots):
        for task in _tasks(process):
            try:
                on_cpu, waiting, _ = (task / "schedstat").read_text().split()
                has_yielded = _has_lowered_its_priority(int(task.name))
            except (OSError, ValueError):
                continue
            ran += int(on_cpu) / 1e9
            if not has_yielded:
                longest_wait = max(longest_wait, int(waiting) / 1e9)
    return longest_wait >= _SHARE * wall_seconds and (
        max(ran, used_seconds) < _SHARE * wall_seconds * cpus
    )


def _has_lowered_its_priority(task: int) -> bool:
    """Whether a task lets others go first: programs are started with our own priority."""
    is_nicer = os.getpriority(os.PRIO_PROCESS, task) > os.getpriority(os.PRIO_PROCESS, 0)
    return is_nicer or os.sched_getscheduler(task) in (os.SCHED_IDLE, os.SCHED_BATCH)


def _trees(roots: Iterable[int]) -> Iterator[int]:
    for root in roots:
        yield from _tree(root)


def _tree(pid: int) -> Iterator[int]:
    yield pid
    for task in _tasks(pid):
        try:
            listed = (task / "children").read_text().split()
        except OSError:
            continue
        for child in listed:
            yield from _tree(int(child))


def _tasks(pid: int) -> list[Path]:
    """Folders of a process's tasks, none where it has ended, which it may do at any moment."""
    try:
        return [Path(f"/proc/{pid}/task/{task}") for task in os.listdir(f"/proc/{pid}/task")]
    except OSError:
        return []
