"""The fork server: a process in a jail that starts each program in namespaces of its own.

It holds capabilities over its own user namespace alone. For each program it forks process 1 of new
process, mount, IPC and host name namespaces, which mounts a fresh `/proc`, `/tmp` and `/dev/shm`,
forks the program, buries its orphans and ends with its exit status. Then the kernel kills whatever
is left of them. Neither can see the fork server.

Messages on the control socket, with descriptors beside them:

    host: b"run"   [start, standard input, output, error, and the result pipe if there is one]
    here: b"begun" [handle of process 1]
    here: b"ended <exit status>", or b"failed" where the program itself never began

    host: b"ask" [request, answer], see `sandboxes.inside.changes`
    here: b"answered", or b"failed"
"""

import contextlib
import gc
import importlib
import json
import os
import signal
import socket
from typing import Any, NoReturn

from sandboxes.inside import kernel
from sandboxes.inside.changes import answer
from sandboxes.inside.payload import Start, become, write_files

_MOST_DESCRIPTORS = 8
_BYTES_A_FILE = 4096
_TMPFS = kernel.MS_NOSUID | kernel.MS_NODEV
_PROC = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
_NAMESPACES = kernel.CLONE_NEWPID | kernel.CLONE_NEWNS | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS
_BROKEN = 125


def serve(control: int, setup: str) -> None:
    """Serve programs until the host closes the socket.

    Args:
        control: Socket to the host.
        setup: JSON with `seccomp` (descriptor of the filter), `preload` (modules to import),
            `package_folder` (where they lie, or null) and `workspace` (see `_mount_workspace`, or
            null).
    """
    settings = json.loads(setup)
    kernel.hide()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # which makes process 1 deaf to it
    with open(settings["seccomp"], "rb") as file:
        seccomp = file.read()
    kernel.unshare(kernel.CLONE_NEWNS)  # mounts of the jail's own namespace cannot be covered
    if settings["package_folder"] is not None:
        import sys

        sys.path.append(settings["package_folder"])
    for name in settings["preload"]:
        importlib.import_module(name)
    workspace = settings["workspace"]
    upper = _mount_workspace(workspace) if workspace is not None else None
    gc.collect()
    gc.freeze()
    with socket.socket(fileno=control) as host:
        host.send(b"ready")
        while True:
            message, descriptors, _, _ = socket.recv_fds(host, 64, _MOST_DESCRIPTORS)
            if message == b"run":
                is_fresh = workspace is None
                host.send(_run(host, descriptors, seccomp, has_own_tmp=is_fresh))
            elif message == b"ask" and upper is not None:
                host.send(_answer(upper, workspace["target"], descriptors))
            else:
                return


def _run(
    host: socket.socket, descriptors: list[int], seccomp: bytes, *, has_own_tmp: bool
) -> bytes:
    """Run one program to its end and return how it ended."""
    given, *standard = descriptors
    with open(given, "rb") as file:
        start = Start(file.read())
    begun, begun_end = os.pipe()
    child = kernel.fork(_NAMESPACES)
    if child == 0:
        _be_process_one(start, standard, seccomp, begun=begun_end, has_own_tmp=has_own_tmp)
    for descriptor in (*standard, begun_end):
        os.close(descriptor)
    handle = os.pidfd_open(child)
    socket.send_fds(host, [b"begun"], [handle])
    os.close(handle)
    status = _exit_status(os.waitpid(child, 0)[1])
    has_begun = os.read(begun, 1) == b"1"  # all that held the other end are dead
    os.close(begun)
    return b"ended %d" % status if has_begun else b"failed"


def _be_process_one(
    start: Start, standard: list[int], seccomp: bytes, *, begun: int, has_own_tmp: bool
) -> NoReturn:
    status = _BROKEN
    try:
        os.setsid()  # out of reach of signals to the program's group
        kernel.mount("proc", "/proc", "proc", _PROC)
        _forbid_user_namespaces()
        options = f"size={start.tmp_bytes},nr_inodes={_num_files(start.tmp_bytes)},mode=700"
        for folder in ("/dev/shm", "/tmp") if has_own_tmp else ("/dev/shm",):
            kernel.mount("tmpfs", folder, "tmpfs", _TMPFS, options)
        write_files("/tmp", start.files)
        program = os.fork()
        if program == 0:
            become(start, seccomp=seccomp, descriptors=standard, begun=begun)
        kernel.drop_capabilities()
        os.closerange(0, 64)
        while True:
            pid, ended = os.wait()
            if pid == program:
                status = _exit_status(ended)
                break
    except OSError as error:
        with contextlib.suppress(OSError):
            os.write(standard[2], f"sandbox: {error}\n".encode())
    finally:
        os._exit(status)


def _answer(upper: int, target: str, descriptors: list[int]) -> bytes:
    """Answer in a fork, whose memory nobody needs afterwards."""
    child = os.fork()
    if child == 0:
        try:
            given, output = descriptors
            with open(given, "rb") as file:
                answer(upper, target, file.read(), output)
            os._exit(0)
        except (OSError, ValueError) as error:
            os.write(2, f"{error}\n".encode())
        finally:
            os._exit(_BROKEN)
    for descriptor in descriptors:
        os.close(descriptor)
    return b"answered" if os.waitpid(child, 0)[1] == 0 else b"failed"


def _mount_workspace(workspace: dict[str, Any]) -> int:
    """Mount a copy-on-write view of a folder, and what lies read-only over it.

    Returns a descriptor of the layer that holds what is written.

    Args:
        workspace: `base` (where the jail shows the folder), `target`, `bytes` and `files` (how much
            may be written in all), `binds` (pairs of source and target) and `hidden` (a folder that
            holds all sources, which nobody sees any more).
    """
    options = f"size={workspace['bytes']},nr_inodes={workspace['files']},mode=700"
    kernel.mount("tmpfs", "/tmp", "tmpfs", _TMPFS, options)
    for name in ("upper", "work", "tmp"):
        os.mkdir(f"/tmp/{name}", 0o755)
    target = workspace["target"]
    layers = f"lowerdir={workspace['base']},upperdir=/tmp/upper,workdir=/tmp/work,userxattr"
    kernel.mount("overlay", target, "overlay", _TMPFS, layers)
    for source, place in workspace["binds"]:
        _make_place(source, place)
        kernel.mount(source, place, "none", kernel.MS_BIND | kernel.MS_REC)
    kernel.mount("tmpfs", workspace["hidden"], "tmpfs", _TMPFS | kernel.MS_RDONLY, "size=4096")
    upper = os.open("/tmp/upper", os.O_RDONLY | os.O_DIRECTORY)
    kernel.mount("/tmp/tmp", "/tmp", "none", kernel.MS_BIND)
    return upper


def _make_place(source: str, place: str) -> None:
    """Make the folder or file that something is to be bound on."""
    if os.path.isdir(source):
        os.makedirs(place, exist_ok=True)
    elif not os.path.exists(place):
        os.makedirs(os.path.dirname(place), exist_ok=True)
        os.close(os.open(place, os.O_CREAT | os.O_WRONLY, 0o644))


def _forbid_user_namespaces() -> None:
    """Allow no further user namespace below this one."""
    with open("/proc/sys/user/max_user_namespaces", "w") as file:
        file.write("0")


def _num_files(num_bytes: int) -> int:
    return max(64, num_bytes // _BYTES_A_FILE)


def _exit_status(ended: int) -> int:
    code = os.waitstatus_to_exitcode(ended)
    return 128 - code if code < 0 else code
