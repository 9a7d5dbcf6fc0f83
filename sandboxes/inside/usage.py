"""What the programs of a container have used, as process 1 of it sees it."""

from __future__ import annotations

import os

from sandboxes.processor_time import tree_cpu_seconds

_USED = ("/sys/fs/cgroup/cpu.stat", "/sys/fs/cgroup/cpuacct/cpuacct.usage")
_KILLS = ("/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control")


def used_cpu_seconds() -> float:
    """Return what the container's control group counted, else what its processes tell."""
    for path in _USED:
        try:
            with open(path) as file:
                text = file.read()
        except OSError:
            continue
        if path.endswith("usage"):
            return int(text) / 1e9
        fields = dict(line.split() for line in text.splitlines())
        return int(fields["usage_usec"]) / 1e6
    return tree_cpu_seconds([os.getpid()])


def num_memory_kills() -> int:
    """Return how many processes of the container were killed for want of memory, where it tells."""
    for path in _KILLS:
        try:
            with open(path) as file:
                fields = dict(line.split() for line in file)
        except OSError:
            continue
        return int(fields.get("oom_kill", 0))
    return 0


def children() -> list[int]:
    """Return the program and the orphans that are left of it."""
    with open("/proc/1/task/1/children") as file:
        return [int(word) for word in file.read().split()]


def exit_status(ended: int) -> int:
    """Return the exit status that a shell would give, from what `waitpid` returned."""
    code = os.waitstatus_to_exitcode(ended)
    return 128 - code if code < 0 else code
