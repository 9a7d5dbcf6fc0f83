"""Control groups: one leaf a jail bounds and counts what all its processes use together.

Works with version 2, with version 1, and with the hybrid of both. Where no leaf can be made the
jail falls back to limits per process.
"""

import contextlib
import itertools
import os
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sandboxes.base import Limits

_PREFIX = "cispo-jail"
_PERIOD_MICROSECONDS = 100_000
_OWN_PROCESSES = 1  # bubblewrap's init, which is process 1 of the jail
_REMOVAL_SECONDS = 2.0
_counter = itertools.count()


@dataclass(frozen=True, slots=True, kw_only=True)
class Cgroups:
    """Where leaves are made.

    Attributes:
        version: 1 or 2.
        parents: Folder in which leaves are made, by controller; version 2 has one folder for all.
    """

    version: int
    parents: Mapping[str, Path]

    def leaf(self, limits: Limits, *, own_processes: int = _OWN_PROCESSES) -> "Leaf":
        """Make a leaf with these limits.

        Args:
            limits: Of the programs in it.
            own_processes: Processes of ours in it, which do not count. Where there are more than
                bubblewrap's, a lack of memory kills single processes rather than all.

        Raises:
            OSError: The kernel refused.
        """
        name = f"{_PREFIX}-{owner_name(os.getpid())}-{next(_counter)}"
        folders = {controller: parent / name for controller, parent in self.parents.items()}
        leaf = Leaf(version=self.version, folders=folders)
        try:
            for folder in set(folders.values()):
                folder.mkdir()
            leaf.limit(limits, own_processes=own_processes)
        except OSError:
            leaf.remove()
            raise
        if self.version == 2 and own_processes == _OWN_PROCESSES:
            leaf.try_to_set("memory", "memory.oom.group", "1")
        return leaf

    def reap(self) -> int:
        """Remove leaves whose owner is dead, with whatever still runs in them; return how many."""
        own_namespace = _pid_namespace()
        num_removed = 0
        for parent in set(self.parents.values()):
            for folder in parent.glob(f"{_PREFIX}-{own_namespace}.*"):
                pid = folder.name.removeprefix(f"{_PREFIX}-").split(".")[1]
                owner = folder.name.removeprefix(f"{_PREFIX}-").rsplit("-", 1)[0]
                if owner_name(int(pid)) != owner:
                    _kill_all(folder)
                    num_removed += _remove(folder)
        return num_removed


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """The control group of one jail."""

    version: int
    folders: Mapping[str, Path]

    def limit(self, limits: Limits, *, own_processes: int, own_bytes: int = 0) -> None:
        """Set the limits anew.

        Args:
            limits: Of the programs in it.
            own_processes: Processes of ours in it.
            own_bytes: Memory that they use.

        Raises:
            OSError: The kernel refused, or more than that is in use.
        """
        memory = str(limits.memory_bytes + own_bytes)
        quota = str(int(limits.cpus * _PERIOD_MICROSECONDS))
        self._set("pids", "pids.max", str(limits.max_processes + own_processes))
        if self.version == 1:
            self.try_to_set("memory", "memory.memsw.limit_in_bytes", "-1")
            self._set("memory", "memory.limit_in_bytes", memory)
            self.try_to_set("memory", "memory.memsw.limit_in_bytes", memory)
            self.try_to_set("cpu", "cpu.cfs_quota_us", quota)
        else:
            self._set("memory", "memory.max", memory)
            self.try_to_set("memory", "memory.swap.max", "0")
            self.try_to_set("cpu", "cpu.max", f"{quota} {_PERIOD_MICROSECONDS}")

    def try_to_set(self, controller: str, file: str, value: str) -> None:
        """Set what not every kernel offers."""
        folder = self.folders.get(controller)
        if folder is not None and (folder / file).exists():
            with contextlib.suppress(OSError):
                self._set(controller, file, value)

    def _set(self, controller: str, file: str, value: str) -> None:
        if controller in self.folders:
            (self.folders[controller] / file).write_text(value)

    def add(self, pid: int) -> None:
        """Put a process in; its future children follow.

        Raises:
            OSError: The process is gone.
        """
        for folder in set(self.folders.values()):
            (folder / "cgroup.procs").write_text(str(pid))

    def cpu_seconds(self) -> float | None:
        """CPU time that all its processes have used, or None where the kernel does not count it."""
        try:
            if self.version == 1:
                return int((self.folders["cpuacct"] / "cpuacct.usage").read_text()) / 1e9
            return _field(self.folders["cpu"] / "cpu.stat", "usage_usec") / 1e6
        except (KeyError, OSError):
            return None

    def num_memory_kills(self) -> int:
        """How many processes in it the kernel has killed for want of memory."""
        file = "memory.oom_control" if self.version == 1 else "memory.events"
        try:
            return _field(self.folders["memory"] / file, "oom_kill")
        except OSError:
            return 0

    def used_bytes(self) -> int:
        """Memory in use now."""
        file = "memory.usage_in_bytes" if self.version == 1 else "memory.current"
        return int((self.folders["memory"] / file).read_text())

    def num_processes(self) -> int:
        """How many processes and threads are in it now."""
        return int((self.folders["pids"] / "pids.current").read_text())

    def remove(self) -> None:
        """Kill what is left in it and remove it; what resists is reaped at the next start."""
        for folder in set(self.folders.values()):
            if not _remove(folder):
                _kill_all(folder)
                deadline = time.monotonic() + _REMOVAL_SECONDS
                while not _remove(folder) and time.monotonic() < deadline:
                    time.sleep(0.002)


def find_cgroups(*, process: Path = Path("/proc/self")) -> Cgroups | None:
    """Return where leaves with at least a memory and a process limit can be made, or None.

    Leaves go below this process's own group; with version 2, which allows that only in groups
    without processes of their own, below the nearest ancestor that hands the controllers on.
    """
    for candidate in (_find_version_2(process), _find_version_1(process)):
        if candidate is not None and _can_make_leaves(candidate):
            return candidate
    return None


def _find_version_1(process: Path) -> Cgroups | None:
    own = {}
    for line in (process / "cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        own.update({controller: path for controller in controllers.split(",") if controller})
    parents = {}
    for root, mount, kind, options in _mounts(process):
        if kind == "cgroup":
            for controller in {"memory", "pids", "cpu", "cpuacct"} & own.keys() & set(options):
                parents[controller] = _below(mount, root, own[controller])
    if not {"memory", "pids"} <= parents.keys():
        return None
    return Cgroups(version=1, parents=parents)


def _find_version_2(process: Path) -> Cgroups | None:
    lines = (process / "cgroup").read_text().splitlines()
    own = next((line[3:] for line in lines if line.startswith("0::")), None)
    mounts = [(root, mount) for root, mount, kind, _ in _mounts(process) if kind == "cgroup2"]
    if own is None or not mounts:
        return None
    root, mount = mounts[0]
    folder = _below(mount, root, own)
    for ancestor in (folder, *folder.parents):
        if not ancestor.is_relative_to(mount):
            return None
        try:
            controllers = (ancestor / "cgroup.subtree_control").read_text().split()
        except OSError:
            continue
        if {"memory", "pids"} <= set(controllers) and os.access(ancestor, os.W_OK):
            wanted = {"memory", "pids", "cpu"} & set(controllers)
            return Cgroups(version=2, parents=dict.fromkeys(wanted, ancestor))
    return None


def _mounts(process: Path) -> Iterator[tuple[str, Path, str, list[str]]]:
    """Yield root within its file system, mount point, kind and options of every mount."""
    for line in (process / "mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        fields = before.split(" ")
        yield fields[3], Path(fields[4]), kind, options.split(",")


def _below(mount: Path, root: str, path: str) -> Path:
    """Return where a group lies in a mount that may show only a part of the tree."""
    relative = path.removeprefix(root.rstrip("/")).lstrip("/")
    return mount / relative if ".." not in relative.split("/") else mount


def _can_make_leaves(cgroups: Cgroups) -> bool:
    trial = Limits(
        cpu_seconds=1, wall_seconds=1, memory_bytes=2**26, max_processes=8, output_bytes=1
    )
    try:
        cgroups.leaf(trial).remove()
    except OSError:
        return False
    return True


def owner_name(pid: int) -> str:
    """Name a process so that a later one with the same number has another name."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return f"{_pid_namespace()}.{pid}.{after_name[19]}"


def _pid_namespace() -> int:
    return os.stat("/proc/self/ns/pid").st_ino


def _field(file: Path, name: str) -> int:
    for line in file.read_text().splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0


def _kill_all(folder: Path) -> None:
    with contextlib.suppress(OSError):
        for pid in (folder / "cgroup.procs").read_text().split():
            os.kill(int(pid), signal.SIGKILL)


def _remove(folder: Path) -> bool:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
