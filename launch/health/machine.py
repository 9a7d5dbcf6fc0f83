"""What this machine has: devices, memory, files, clock."""

import ctypes
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from launch.health.finding import Finding, Level

_GB = 10**9
_LITTLE_MEMORY = 4 * _GB
_FEW_DESCRIPTORS, _ENOUGH_DESCRIPTORS = 1024, 8192
"""Ray needs the first at the least; a run with dozens of actors and jails the second."""

_MEMORY_LIMITS = ("memory.max", "memory/memory.limit_in_bytes")
_QUOTAS = ("cpu.max", "cpu/cpu.cfs_quota_us")
_CLOCK_UNSYNCHRONISED = 5
_TIMEX_BYTES = 512


def processors(groups: Path = Path("/sys/fs/cgroup")) -> Finding:
    """Count the processors that this process may use, a control group's quota included."""
    count = len(os.sched_getaffinity(0))
    quota = _quota(groups)
    if quota is not None and quota < count:
        return Finding(text=f"{count} processors, of which a control group allows {quota:g}")
    return Finding(text=f"{count} processors")


def memory(groups: Path = Path("/sys/fs/cgroup"), meminfo: Path = Path("/proc/meminfo")) -> Finding:
    """Compare the memory that is free, or that a control group allows, with what Ray takes."""
    rows = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    free = int(rows["MemAvailable"].split()[0]) * 1024
    total = int(rows["MemTotal"].split()[0]) * 1024
    limits = [int(text) for text in _read(groups, _MEMORY_LIMITS) if text.isdigit()]
    limit = min([total, *limits])
    said = f"{free / _GB:.3g} GB of {total / _GB:.3g} GB free"
    if limit < total:
        said += f", a control group allows {limit / _GB:.3g} GB"
    if min(free, limit) < _LITTLE_MEMORY:
        return Finding(
            level=Level.WARN,
            text=f"{said}; Ray, a learner and an engine take about 3 GB before any model",
            fix="end other programs, or raise the container's limit",
        )
    return Finding(text=said)


def shared_memory(needed: int, folder: Path = Path("/dev/shm")) -> Finding:
    """Compare the memory that processes can share with the object store that is asked for.

    Args:
        needed: Bytes of Ray's object store.
        folder: Where it lies.
    """
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        return Finding(
            level=Level.FAIL,
            text=f"{folder} cannot be written",
            fix=f"mount a tmpfs at {folder}",
        )
    free = shutil.disk_usage(folder).free
    said = f"{folder} has {free / _GB:.3g} GB free, the object store takes {needed / _GB:.3g} GB"
    if free < needed:
        return Finding(
            level=Level.FAIL,
            text=said,
            fix="start the container with more (docker run --shm-size=8g), or lower "
            "cluster.object_store_bytes",
        )
    return Finding(text=said)


def descriptors() -> Finding:
    """Compare the limit of open files with what Ray and the jails open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    said = f"{soft} open files allowed"
    if soft < _ENOUGH_DESCRIPTORS:
        allowed = (
            "" if hard >= _ENOUGH_DESCRIPTORS else f"; the hard limit is {hard}, ask its owner"
        )
        return Finding(
            level=Level.WARN if soft >= _FEW_DESCRIPTORS else Level.FAIL,
            text=said,
            fix=f"ulimit -n 65536{allowed}",
        )
    return Finding(text=said)


def disk(where: str, *, needed: int, key: str = "run_dir") -> Finding:
    """Write a file into a folder, and look at the room that is left.

    Args:
        where: The folder, which need not exist.
        needed: Bytes that should be free.
        key: Its name in the configuration.
    """
    path = Path(where).expanduser().absolute()
    folder = next(place for place in (path, *path.parents) if place.is_dir())
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-") as file:
            file.write(b"42")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return Finding(
            level=Level.FAIL,
            text=f"{key}={where}: {folder} cannot be written ({error.strerror})",
            fix=f"name another {key}",
        )
    free = shutil.disk_usage(folder).free
    said = f"{free / _GB:.3g} GB free in {folder}"
    if free < needed:
        return Finding(
            level=Level.FAIL,
            text=f"{said}, fewer than free_bytes={needed / _GB:.3g} GB",
            fix=f"make room, or name a {key} on another disk",
        )
    return Finding(text=said)


def clock(written: Sequence[Path] = (Path(__file__),)) -> Finding:
    """Ask the kernel whether something keeps its clock right, and compare it with our own files."""
    now = time.time()
    ahead = max(path.stat().st_mtime for path in written) - now
    said = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    if ahead > 60:
        return Finding(
            level=Level.FAIL,
            text=f"{said}, which is {ahead:.0f} s before this code was written",
            fix="set the clock: TLS and the names of W&B's runs go by it",
        )
    kernel = ctypes.CDLL(None, use_errno=True)
    if kernel.adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES)) == _CLOCK_UNSYNCHRONISED:
        return Finding(
            level=Level.WARN,
            text=f"{said}; the kernel knows of nothing that keeps it right",
            fix="run chrony or systemd-timesyncd; on one machine alone it does no harm",
        )
    return Finding(text=f"{said}, kept right")


def _quota(groups: Path) -> float | None:
    """Return the processors that a control group allows, None for all."""
    for text in _read(groups, _QUOTAS):
        first, *rest = text.split()
        if first.lstrip("-").isdigit() and int(first) > 0:
            period = rest[0] if rest else (groups / "cpu/cpu.cfs_period_us").read_text()
            return int(first) / int(period)
    return None


def _read(groups: Path, names: Sequence[str]) -> list[str]:
    """Return what the files hold that are there: those of version 2, of 1, or none."""
    return [(groups / name).read_text().strip() for name in names if (groups / name).is_file()]
