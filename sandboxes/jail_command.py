"""The command line of one jail: every namespace, every mount and every limit that it has."""

import math
import os
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
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
_SERVER_TMP_BYTES = 2**20

_DROP_USER = """
import os, sys
os.setgroups([]); os.setresgid(*[int(sys.argv[1])] * 3); os.setresuid(*[int(sys.argv[1])] * 3)
os.execv(sys.argv[2], sys.argv[2:])
"""
STARTED = b"\n"
"""What the gate prints once the jail is complete."""

RELEASE = b"go\n"
"""What the gate waits for; without a worker that is alive to send it, the program never starts."""

_STDIN = "/run/stdin"
_GATE = """{limits} || exit 125
echo
read -r go || exit 125
exec "$@" <{stdin}
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
    stdin: int,
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
        stdin: Descriptor with the program's standard input.
        files: Descriptor with the contents, by path below the work folder.
        has_cgroup: Whether the jail gets a control group.
    """
    placed = {f"{WORK_FOLDER}/{name}": descriptor for name, descriptor in files.items()}
    placed[_STDIN] = stdin
    return [
        *_namespaces(bwrap),
        "--disable-userns",
        *_mounts(interpreter, tmp_bytes=limits.tmp_bytes),
        *(word for name, source in placed.items() for word in ("--file", str(source), name)),
        *("--remount-ro", "/", "--chdir", WORK_FOLDER),
        *_setenv(interpreter),
        *("--json-status-fd", str(status), "--block-fd", str(block), "--seccomp", str(seccomp)),
        *("--", "/bin/sh", "-c", _gate(limits, has_cgroup=has_cgroup), "sandbox", *argv),
    ]


def server_command(
    bwrap: Path,
    argv: Sequence[str],
    *,
    interpreter: Interpreter,
    status: int,
    block: int,
    shown: Mapping[str, Path],
    folders: Sequence[str] = (),
) -> list[str]:
    """Return what to execute on the host for a jail that holds a fork server of ours.

    The server has capabilities over the jail's user namespace, and with them nothing outside of it;
    it takes them from every program that it starts.

    Args:
        bwrap: Bubblewrap.
        argv: The server's command.
        interpreter: The Python that the jail has.
        status: Descriptor that bubblewrap reports on.
        block: Descriptor that the jail waits on until it is in its control group.
        shown: Folders and files of the machine that the jail sees, read-only, by their place.
        folders: Empty folders that it has, for mounts.
    """
    binds = [word for to, source in shown.items() for word in ("--ro-bind", str(source), to)]
    return [
        *_namespaces(bwrap),
        *("--cap-add", "ALL"),
        *_mounts(interpreter, tmp_bytes=_SERVER_TMP_BYTES),
        *binds,
        *(word for folder in folders for word in ("--dir", folder)),
        *("--remount-ro", "/", "--chdir", "/"),
        *_setenv(interpreter),
        *("--json-status-fd", str(status), "--block-fd", str(block)),
        *("--", f"{interpreter.folder}/python3", *argv[1:]),
    ]


def environment_of(interpreter: Interpreter) -> dict[str, str]:
    """Return every variable that a program in a jail finds."""
    path = (interpreter.folder, "/usr/bin", "/bin")
    return program_environment(path) | interpreter.environment


def program_environment(path: Iterable[str]) -> dict[str, str]:
    """Return every variable that a program finds, with its search path."""
    return _ENVIRONMENT | {"PATH": ":".join(dict.fromkeys(path))}


def process_limits(limits: Limits, *, has_cgroup: bool) -> dict[str, int]:
    """Return the limits that each process has, by the name of their `RLIMIT_` constant.

    Those on memory and processes are set where there is no control group, which counts more exactly
    and all processes together.
    """
    given = {
        "cpu": math.ceil(limits.cpu_seconds) + (1 if has_cgroup else 0),
        "fsize": limits.tmp_bytes,
        "core": 0,
        "memlock": 0,
        "msgqueue": 0,
        "nofile": _MAX_FILES,
    }
    if not has_cgroup:
        given |= {"as": limits.memory_bytes, "nproc": limits.max_processes}
    return given


def _namespaces(bwrap: Path) -> list[str]:
    return [
        *_drop_user(),
        str(bwrap),
        *("--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-net"),
        *("--unshare-cgroup-try", "--uid", "1000", "--gid", "1000"),
        *("--hostname", "sandbox", "--new-session", "--die-with-parent", "--clearenv"),
    ]


def _mounts(interpreter: Interpreter, *, tmp_bytes: int) -> list[str]:
    size = str(tmp_bytes)
    return [
        *_system_mounts(),
        *interpreter.mounts,
        *("--proc", "/proc", "--dev", "/dev", "--size", size, "--tmpfs", "/dev/shm"),
        *("--remount-ro", "/dev", "--size", size, "--tmpfs", WORK_FOLDER),
    ]


def _setenv(interpreter: Interpreter) -> list[str]:
    variables = environment_of(interpreter)
    return [word for name, value in variables.items() for word in ("--setenv", name, value)]


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


def _gate(limits: Limits, *, has_cgroup: bool) -> str:
    """Return the script that limits each process, reports, waits, and becomes the program.

    It runs in the jail, whose user namespace counts its own processes alone.
    """
    given = process_limits(limits, has_cgroup=has_cgroup)
    cpu = given["cpu"]
    words = [f"-S -t {cpu}", f"-H -t {cpu + 1}", f"-f {given['fsize'] // 512}", "-c 0", "-l 0"]
    words.append(f"-n {given['nofile']}")
    if "as" in given:
        words.append(f"-v {given['as'] // 1024}")
    commands = [f"ulimit {word}" for word in words]
    if "nproc" in given:  # shells do not agree on the letter
        most = given["nproc"]
        commands.append(f"{{ ulimit -u {most} 2>/dev/null || ulimit -p {most}; }}")
    return _GATE.format(limits=" && ".join(commands), stdin=_STDIN)
