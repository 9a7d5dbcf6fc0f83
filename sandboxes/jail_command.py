"""The command line of one jail: every namespace, every mount and every limit that it has."""

import math
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from sandboxes.base import Limits
from sandboxes.interpreter import Interpreter

SANDBOX_UID = 61000
"""User that jails run as where the worker is root; nothing on the machine belongs to it."""

WORK_FOLDER = "/tmp"
_SYSTEM_FOLDERS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_ENVIRONMENT = {
    "HOME": WORK_FOLDER,
    "LANG": "C.UTF-8",
    "TZ": "UTC",
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
}
_MAX_FILES = 256

_DROP_USER = """
import os, sys
os.setgroups([]); os.setresgid(*[int(sys.argv[1])] * 3); os.setresuid(*[int(sys.argv[1])] * 3)
os.execv(sys.argv[2], sys.argv[2:])
"""
_SET_LIMITS = """
import os, resource, sys
for word in sys.argv[1].split(","):
    name, soft, hard = word.replace("=", ":").split(":")
    resource.setrlimit(getattr(resource, "RLIMIT_" + name.upper()), (int(soft), int(hard)))
os.execvp(sys.argv[2], sys.argv[2:])
"""


def jail_command(
    bwrap: Path,
    argv: Sequence[str],
    *,
    limits: Limits,
    interpreter: Interpreter,
    seccomp: int,
    status: int,
    block: int,
    files: Mapping[str, int],
    has_cgroup: bool,
) -> list[str]:
    """Return what to execute on the host.

    Args:
        bwrap: Bubblewrap.
        argv: The program's own command, as the jail sees it.
        limits: Its limits; those on memory and processes are set per process where there is no
            control group.
        interpreter: The Python that the jail has.
        seccomp: Descriptor with the filter.
        status: Descriptor that bubblewrap reports on.
        block: Descriptor that the jail waits on until it is in its control group.
        files: Descriptor with the contents, by path below the work folder.
        has_cgroup: Whether the jail gets a control group.
    """
    size = str(limits.tmp_bytes)
    placed = [
        word
        for name, descriptor in files.items()
        for word in ("--file", str(descriptor), f"{WORK_FOLDER}/{name}")
    ]
    path = dict.fromkeys((interpreter.folder, "/usr/bin", "/bin"))
    environment = _ENVIRONMENT | {"PATH": ":".join(path)}
    return [
        *_drop_user(),
        str(bwrap),
        *("--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-net"),
        *("--unshare-cgroup-try", "--disable-userns", "--uid", "1000", "--gid", "1000"),
        *("--hostname", "sandbox", "--new-session", "--die-with-parent", "--clearenv"),
        *_system_mounts(),
        *interpreter.mounts,
        *("--proc", "/proc", "--dev", "/dev", "--size", size, "--tmpfs", "/dev/shm"),
        *("--remount-ro", "/dev", "--size", size, "--tmpfs", WORK_FOLDER),
        *placed,
        *("--remount-ro", "/", "--chdir", WORK_FOLDER),
        *(word for name, value in environment.items() for word in ("--setenv", name, value)),
        *("--json-status-fd", str(status), "--block-fd", str(block), "--seccomp", str(seccomp)),
        "--",
        *_set_limits(limits, interpreter, has_cgroup=has_cgroup),
        *argv,
    ]


def _drop_user() -> list[str]:
    """Become a user who owns nothing, which only root needs to."""
    if os.geteuid() != 0:
        return []
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        return [sys.executable, "-I", "-S", "-c", _DROP_USER, str(SANDBOX_UID)]
    uid = str(SANDBOX_UID)
    return [setpriv, f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--"]


def _system_mounts() -> list[str]:
    words = ["--ro-bind", "/usr", "/usr"]
    for name in _SYSTEM_FOLDERS:
        path = Path("/", name)
        if path.is_symlink():
            words += ["--symlink", os.readlink(path), str(path)]
        elif path.is_dir():
            words += ["--ro-bind", str(path), str(path)]
    words += ["--dir", "/etc"]
    for name in ("/etc/ld.so.cache", "/etc/alternatives"):
        words += ["--ro-bind-try", name, name]
    return words


def _set_limits(limits: Limits, interpreter: Interpreter, *, has_cgroup: bool) -> list[str]:
    """Limit each process, inside the jail, whose user namespace counts its own processes alone."""
    cpu = math.ceil(limits.cpu_seconds)
    if has_cgroup:  # which counts more exactly, and all processes together
        cpu += 1
    values = {
        "fsize": limits.tmp_bytes,
        "core": 0,
        "nofile": _MAX_FILES,
        "msgqueue": 0,
        "memlock": 0,
    }
    if not has_cgroup:
        values |= {"as": limits.memory_bytes, "nproc": limits.max_processes}
    words = [f"cpu={cpu}:{cpu + 1}", *(f"{name}={limit}:{limit}" for name, limit in values.items())]
    if os.access("/usr/bin/prlimit", os.X_OK):
        return ["/usr/bin/prlimit", *(f"--{word}" for word in words), "--"]
    joined = ",".join(words)
    return [f"{interpreter.folder}/python3", "-I", "-S", "-c", _SET_LIMITS, joined]
