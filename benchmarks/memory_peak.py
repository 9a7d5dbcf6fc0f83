"""Resident memory of this process, and its peak since a moment (Linux, stdlib only)."""

from pathlib import Path

_RESET_PEAK = "5"
"""What /proc/self/clear_refs takes for: the peak begins anew (proc(5))."""


def resident_bytes() -> int:
    """Memory that this process has now."""
    return _status("VmRSS")


def peak_bytes() -> int:
    """The most that this process had since `reset_peak`, or since it began."""
    return _status("VmHWM")


def reset_peak() -> None:
    """Forget what this process had until now."""
    Path("/proc/self/clear_refs").write_text(_RESET_PEAK)


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {key}")
