"""The socket between a fork server and its host: messages, and handles of processes."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Sequence
from pathlib import Path

from sandboxes.bell import Bell

_MESSAGE_BYTES = 64
_NUM_HANDLES = 2  # process 1 of a room, and the program


class ServerLink:
    """The host's end, on the running event loop."""

    def __init__(self, control: socket.socket, bell: Bell) -> None:
        """Take over the socket.

        Args:
            control: The host's end.
            bell: Rings when something has come.
        """
        self._control = control
        self._bell = bell
        self._messages: list[bytes] = []
        self._handles: list[int] = []
        control.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(control.fileno(), self._receive)

    @property
    def has_message(self) -> bool:
        """Whether something has come that was not taken."""
        return bool(self._messages)

    def take(self) -> bytes | None:
        """Return the oldest message that was not taken, or None."""
        return self._messages.pop(0) if self._messages else None

    def send(self, message: bytes, descriptors: Sequence[int]) -> None:
        """Send a message with descriptors beside it.

        Raises:
            OSError: The server is gone.
        """
        socket.send_fds(self._control, [message], list(descriptors))

    def pids(self) -> list[int]:
        """Return the numbers here of the processes whose handles have come."""
        return [_pid_of(handle) for handle in self._handles]

    def kill(self) -> None:
        """Kill the processes whose handles have come."""
        for handle in self._handles:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, signal.SIGKILL)

    def forget(self) -> None:
        """Let go of the handles."""
        while self._handles:
            os.close(self._handles.pop())

    def close(self) -> None:
        """Close the socket and let go of the handles."""
        self._loop.remove_reader(self._control.fileno())
        self._control.close()
        self.forget()

    def _receive(self) -> None:
        try:
            message, handles, _, _ = socket.recv_fds(self._control, _MESSAGE_BYTES, _NUM_HANDLES)
        except BlockingIOError:
            return
        except OSError:
            message, handles = b"", []
        if message:
            self._messages.append(message)
        else:  # the server is gone, which its end tells
            self._loop.remove_reader(self._control.fileno())
        self._handles += handles
        self._bell.ring()


def _pid_of(handle: int) -> int:
    """Return the number of a process here, from its descriptor; -1 where it has ended."""
    for line in Path(f"/proc/self/fdinfo/{handle}").read_text().splitlines():
        if line.startswith("Pid:"):
            return int(line.removeprefix("Pid:"))
    return -1
