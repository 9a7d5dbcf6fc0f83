"""What a copy-on-write view of 50 MB costs: the view itself, a session with its jail, a copy.

A part of `benchmarks.sandboxes`. The view is timed where it is made: a child enters user and mount
namespaces of its own, as the jail's fork server does, and calls the function that the fork server
calls.
"""

import os
import shutil
import statistics
import struct
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.processor_meter import Meter
from sandboxes.base import Limits
from sandboxes.bubblewrap import BubblewrapSandbox
from sandboxes.inside import kernel
from sandboxes.inside.zygote import mount_workspace
from sandboxes.jail_command import SANDBOX_UID
from sandboxes.workspace import Workspace, give_away, open_workspace

FILES, FILE_BYTES = 2400, 21845  # 50 MB
VIEWS_A_ROUND = 25
WRITE_BYTES = 256 * 2**20
_CLONE_NEWUSER = 0x10000000
_SECONDS = struct.Struct("d")


async def measure_workspaces(meter: Meter, limits: Limits, *, rounds: int) -> dict:
    """Return milliseconds of a view, of a session, and of a copy in memory."""
    jails = BubblewrapSandbox(cgroups=meter.counted())
    views, sessions, copies = [], [], []
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        large = _make_folder(Path(name))
        for _ in range(rounds):
            views += [_seconds_of_a_view(large) for _ in range(VIEWS_A_ROUND)]
            began = time.perf_counter()
            async with open_workspace(jails, Workspace(base=large), limits):
                sessions.append(time.perf_counter() - began)
            with tempfile.TemporaryDirectory(dir="/dev/shm") as memory:
                began = time.perf_counter()
                shutil.copytree(large, Path(memory) / "copy")
                copies.append(time.perf_counter() - began)
    return {
        "bytes": FILES * FILE_BYTES,
        "files": FILES,
        "copy-on-write view": _describe(views),
        "session with its jail": _describe(sessions),
        "copy in memory": _describe(copies),
    }


def _make_folder(parent: Path) -> Path:
    """Make 50 MB in files that the sandbox's own user may read, and places to mount on."""
    parent.chmod(0o755)
    for place in ("target", "hidden"):
        (parent / place).mkdir()
    folder = parent / "large"
    for number in range(FILES):
        place = folder / f"d{number // 100}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"f{number}").write_bytes(os.urandom(FILE_BYTES))
    give_away(parent)
    return folder


def _seconds_of_a_view(base: Path) -> float:
    """Let a child in new namespaces mount a view; return how long that took."""
    answer, answer_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            _enter_namespaces()
            began = time.perf_counter()
            mount_workspace(
                {
                    "base": str(base),
                    "target": str(base.parent / "target"),
                    "bytes": WRITE_BYTES,
                    "files": 65536,
                    "binds": [],
                    "hidden": str(base.parent / "hidden"),
                }
            )
            os.write(answer_end, _SECONDS.pack(time.perf_counter() - began))
        finally:
            os._exit(0)
    os.close(answer_end)
    said = os.read(answer, _SECONDS.size)
    os.close(answer)
    os.waitpid(child, 0)
    assert said, "the child could not mount it"
    seconds: float = _SECONDS.unpack(said)[0]
    return seconds


def _enter_namespaces() -> None:
    """Become root of a user namespace that holds the sandbox's user alone, as in a jail."""
    if os.geteuid() == 0:
        os.setresgid(SANDBOX_UID, SANDBOX_UID, SANDBOX_UID)
        os.setresuid(SANDBOX_UID, SANDBOX_UID, SANDBOX_UID)
        kernel.unhide()
    uid, gid = os.getuid(), os.getgid()
    kernel.unshare(_CLONE_NEWUSER | kernel.CLONE_NEWNS)
    for name, content in (
        ("setgroups", "deny"),
        ("uid_map", f"0 {uid} 1"),
        ("gid_map", f"0 {gid} 1"),
    ):
        Path(f"/proc/self/{name}").write_text(content)


def _describe(seconds: Sequence[float]) -> dict[str, float]:
    ordered = sorted(1e3 * value for value in seconds)
    return {
        "ms_p50": round(statistics.median(ordered), 2),
        "ms_p99": round(ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))], 2),
        "rounds": len(ordered),
    }
