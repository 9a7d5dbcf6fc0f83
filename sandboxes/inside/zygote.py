"""The fork server: a process in a jail that starts each program in namespaces of its own.

It holds capabilities over its own user namespace alone. For each program it has a room made (see
`sandboxes.inside.rooms`), forks, and lets the fork enter the room and become the program. When the
program has ended, whatever it left in the room is killed. Programs cannot see the fork server.

Messages on the control socket, with descriptors beside them:

    host: b"run"   [start, standard input, output, error, and the result pipe if there is one]
    here: b"begun" [handle of the room's process 1, handle of the program]
    here: b"ended <exit status>", or b"failed" where the program itself never began

    host: b"ask" [request, answer], see `sandboxes.inside.changes`
    here: b"answered", or b"failed"
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

from sandboxes.inside import kernel
from sandboxes.inside.changes import answer
from sandboxes.inside.payload import Start, become
from sandboxes.inside.rooms import NAMESPACES, RoomError, Rooms

_MOST_DESCRIPTORS = 8
_TMPFS = kernel.MS_NOSUID | kernel.MS_NODEV
_BROKEN = 125
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def serve(control: int, setup: str) -> None:
    """Serve programs until the host closes the socket.

    Args:
        control: Socket to the host.
        setup: JSON with `seccomp` (descriptor of the filter), `preload` (modules to import),
            `package_folder` (where they lie, or null) and `workspace` (see `mount_workspace`, or
            null).
    """
    settings = json.loads(setup)
    kernel.hide()
    kernel.name_process("cispo-server")
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # which makes process 1 deaf to it
    with open(settings["seccomp"], "rb") as file:
        seccomp = file.read()
    kernel.unshare(kernel.CLONE_NEWNS)  # mounts of the jail's own namespace cannot be covered
    workspace = settings["workspace"]
    upper = mount_workspace(workspace) if workspace is not None else None
    rooms = Rooms(has_own_tmp=upper is None, answer=_answerer(upper, workspace))
    _preload(settings["preload"], settings["package_folder"])
    gc.collect()
    gc.freeze()
    kernel.use_large_pages()
    with socket.socket(fileno=control) as host:
        host.send(b"ready")
        while True:
            message, descriptors, _, _ = socket.recv_fds(host, 64, _MOST_DESCRIPTORS)
            if message == b"run":
                host.send(_run(host, rooms, descriptors, seccomp))
            elif message == b"ask":
                host.send(rooms.ask(descriptors))
            else:
                return


def _preload(names: list[str], folder: str | None) -> None:
    """Import modules once for all programs.

    Raises:
        ImportError: One is not there.
        RuntimeError: One started a thread, which no fork would have.
    """
    if folder is not None:
        sys.path.append(folder)
    os.environ.update(_ONE_THREAD)
    for name in names:
        importlib.import_module(name)
        if len(os.listdir("/proc/self/task")) > 1:
            raise RuntimeError(f"{name} starts threads when it is imported; do not preload it")


def _run(host: socket.socket, rooms: Rooms, descriptors: list[int], seccomp: bytes) -> bytes:
    """Run one program to its end and return how it ended."""
    given, *standard = descriptors
    try:
        room = rooms.open(given)
        begun, begun_end = os.pipe()
        child = _fork_into(room, given, standard, seccomp, begun=begun_end)
        os.close(begun_end)
        handle = os.pidfd_open(child)
        socket.send_fds(host, [b"begun"], [room, handle])
        os.close(handle)
        status = _exit_status(os.waitpid(child, 0)[1])
        rooms.close(room)
        has_begun = os.read(begun, 1) == b"1"  # all that held the other end are dead
        os.close(begun)
        return b"ended %d" % status if has_begun else b"failed"
    except RoomError as error:
        os.write(standard[2], str(error).encode())
        return b"failed"
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _fork_into(room: int, given: int, standard: list[int], seccomp: bytes, *, begun: int) -> int:
    """Fork a process that enters a room and becomes a program."""
    kernel.enter(room, kernel.CLONE_NEWPID)  # which holds for children
    child = os.fork()
    if child == 0:
        try:
            kernel.enter(room, NAMESPACES)
            with open(given, "rb") as file:
                file.seek(0)
                start = Start(file.read())
            become(start, seccomp=seccomp, descriptors=standard, begun=begun)
        finally:
            os._exit(_BROKEN)
    return child


def _answerer(upper: int | None, workspace: dict[str, Any]) -> Callable[[bytes, int], None]:
    """Return what answers a request; see `sandboxes.inside.changes`."""

    def answer_with(request: bytes, output: int) -> None:
        if upper is None:
            raise OSError("there is no workspace")
        answer(upper, workspace["target"], request, output)

    return answer_with


def mount_workspace(workspace: dict[str, Any]) -> int:
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


def _exit_status(ended: int) -> int:
    code = os.waitstatus_to_exitcode(ended)
    return 128 - code if code < 0 else code
