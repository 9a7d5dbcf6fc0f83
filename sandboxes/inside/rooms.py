"""Makes the namespaces that a program runs in, from a process that is small and so forks quickly.

That process enters no room itself, so it also reads workspaces between programs.

A room is a process 1 in new process, mount, IPC and host name namespaces with a fresh `/proc`,
`/tmp` and `/dev/shm`. It buries orphans until it is killed, and the kernel kills all others with
it. The program enters the room from outside (see `sandboxes.inside.zygote`), so that process 1
shares no memory with it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Callable
from typing import NoReturn

from sandboxes.inside import kernel
from sandboxes.inside.payload import Start, write_files

NAMESPACES = kernel.CLONE_NEWNS | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS

_BYTES_A_FILE = 4096
_FEWEST_FILES = 64
_TMPFS = kernel.MS_NOSUID | kernel.MS_NODEV
_PROC = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC
_MESSAGE_BYTES = 4096


class RoomError(Exception):
    """A room could not be made; the message is the kernel's."""


class Rooms:
    """One room at a time, made by a process of its own."""

    def __init__(self, *, has_own_tmp: bool, answer: Callable[[bytes, int], None]) -> None:
        """Start that process; call it while this one is small.

        Args:
            has_own_tmp: Whether each room gets a `/tmp`; else it has this process's.
            answer: Writes the answer to a request to a descriptor.
        """
        self._keeper, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if os.fork() == 0:
            self._keeper.close()
            _keep(theirs, answer, has_own_tmp=has_own_tmp)
        theirs.close()

    def open(self, start: int) -> int:
        """Make a room with the files of a program in its `/tmp`; return a handle of its process 1.

        Args:
            start: Descriptor of the program's start message.

        Raises:
            RoomError: It cannot be made.
        """
        socket.send_fds(self._keeper, [b"open"], [start])
        message, handles, _, _ = socket.recv_fds(self._keeper, _MESSAGE_BYTES, 1)
        if not handles:
            raise RoomError(message.decode(errors="replace"))
        return handles[0]

    def ask(self, descriptors: list[int]) -> bytes:
        """Have a request answered; return `answered` or `failed`.

        Args:
            descriptors: File with the request, and where the answer goes; they are closed.
        """
        socket.send_fds(self._keeper, [b"ask"], descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        return self._keeper.recv(_MESSAGE_BYTES)

    def close(self, handle: int) -> None:
        """Kill everything in the room, and wait until it is gone."""
        with contextlib.suppress(ProcessLookupError):  # the host was first
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        os.close(handle)
        self._keeper.recv(_MESSAGE_BYTES)


def _keep(
    asked: socket.socket, answer: Callable[[bytes, int], None], *, has_own_tmp: bool
) -> NoReturn:
    kernel.name_process("cispo-keeper")
    try:
        while True:
            message, descriptors, _, _ = socket.recv_fds(asked, _MESSAGE_BYTES, 2)
            if not message:
                break
            with open(descriptors[0], "rb") as file:
                file.seek(0)
                given = file.read()
            if message == b"open":
                _make(asked, Start(given), has_own_tmp=has_own_tmp)
            else:
                asked.send(_answer(answer, given, descriptors[1]))
    finally:
        os._exit(1)


def _answer(answer: Callable[[bytes, int], None], request: bytes, output: int) -> bytes:
    """Answer in a fork, whose memory nobody needs afterwards."""
    child = os.fork()
    if child == 0:
        try:
            answer(request, output)
            os._exit(0)
        except (OSError, ValueError) as error:
            os.write(2, f"{error}\n".encode())
        finally:
            os._exit(1)
    os.close(output)
    return b"answered" if os.waitpid(child, 0)[1] == 0 else b"failed"


def _make(asked: socket.socket, start: Start, *, has_own_tmp: bool) -> None:
    """Make a room and stay until it has ended."""
    ready, ready_end = os.pipe()
    child = kernel.fork(NAMESPACES | kernel.CLONE_NEWPID)
    if child == 0:
        _be_process_one(ready_end, start, has_own_tmp=has_own_tmp)
    os.close(ready_end)
    failure = os.read(ready, _MESSAGE_BYTES)
    os.close(ready)
    if failure:
        os.waitpid(child, 0)
        asked.send(failure)
        return
    handle = os.pidfd_open(child)
    socket.send_fds(asked, [b"made"], [handle])
    os.close(handle)
    os.waitpid(child, 0)
    asked.send(b"gone")


def _be_process_one(ready: int, start: Start, *, has_own_tmp: bool) -> NoReturn:
    """Furnish the room, say so by closing `ready`, and bury orphans."""
    try:
        kernel.name_process("cispo-room")
        os.setsid()  # out of reach of signals to a group
        kernel.mount("proc", "/proc", "proc", _PROC)
        with open("/proc/sys/user/max_user_namespaces", "w") as file:
            file.write("0")
        num_files = max(_FEWEST_FILES, start.tmp_bytes // _BYTES_A_FILE)
        options = f"size={start.tmp_bytes},nr_inodes={num_files},mode=700"
        for folder in ("/dev/shm", "/tmp") if has_own_tmp else ("/dev/shm",):
            kernel.mount("tmpfs", folder, "tmpfs", _TMPFS, options)
        write_files("/tmp", start.files)
        kernel.drop_capabilities()
        os.closerange(0, ready)
        os.closerange(ready + 1, os.sysconf("SC_OPEN_MAX"))
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries them
        os.close(ready)
        while True:
            signal.pause()
    except OSError as error:
        os.write(ready, f"{error}\n".encode())
    finally:
        os._exit(1)
