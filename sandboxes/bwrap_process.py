"""One bubblewrap from its start to its end: started blocked, confined, released, killed whole."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from sandboxes.bell import Bell
from sandboxes.cgroups import Leaf
from sandboxes.pipes import CappedReader

_START_SECONDS = 60.0
_STATUS_BYTES = 65536


class BwrapProcess:
    """Bubblewrap and the jail below it, on the running event loop.

    Must be built on the loop's own thread: `--die-with-parent` binds the jail's life to the thread
    that starts it, so that a worker that is killed leaves nothing behind.
    """

    def __init__(
        self,
        command: Callable[[int, int], Sequence[str]],
        *,
        stdin: int,
        stdout: int,
        stderr: int,
        inherited: Sequence[int],
        leaf: Leaf | None,
        bell: Bell,
    ) -> None:
        """Start it, blocked.

        Args:
            command: Makes the command line from the status and the block descriptor.
            stdin: Descriptor of its standard input.
            stdout: Of its standard output.
            stderr: Of its standard error.
            inherited: Descriptors that the command line names.
            leaf: Its control group, or None.
            bell: Rings when it has reported something, and at its end.
        """
        self._leaf = leaf
        self._bell = bell
        self._loop = asyncio.get_running_loop()
        self._init: int | None = None  # descriptor of process 1 of the jail
        self.init_pid = 0
        with ExitStack() as theirs, ExitStack() as ours:
            block, self._block_end = os.pipe()
            theirs.callback(os.close, block)
            ours.callback(os.close, self._block_end)
            status, status_end = os.pipe()
            theirs.callback(os.close, status_end)
            ours.callback(os.close, status)
            self._process = subprocess.Popen(
                command(status_end, block),
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                pass_fds=[status_end, block, *inherited],
                env={},
                cwd="/",
                start_new_session=True,
            )
            ours.pop_all()
        self._status = CappedReader(
            status, max_bytes=_STATUS_BYTES, on_change=bell.ring, tells_each_chunk=True
        )
        self._handle = os.pidfd_open(self._process.pid)
        self._loop.add_reader(self._handle, self._reap)

    async def confine(self) -> None:
        """Put process 1 into its control group once bubblewrap names it, then let it go on."""
        await self._bell.wait(self._is_confined, seconds=_START_SECONDS)

    @property
    def is_reaped(self) -> bool:
        """Whether bubblewrap has ended."""
        return self._process.returncode is not None

    @property
    def is_drained(self) -> bool:
        """Whether it will report no more."""
        return self._status.is_finished or self._status.has_overflowed

    def exit_code(self) -> int | None:
        """Return what bubblewrap reported, which it does only if the program had been started."""
        for line in self._status.data.splitlines():
            with contextlib.suppress(ValueError):
                document = json.loads(line)
                if "exit-code" in document:
                    return int(document["exit-code"])
        return None

    def kill(self) -> None:
        """Kill process 1, and with it the whole jail, or bubblewrap if it has not begun."""
        if self._init is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._init, signal.SIGKILL)
        elif not self.is_reaped:
            self._process.kill()

    def close(self) -> None:
        """Kill what is left of it and free its descriptors; needs no event loop turn."""
        self.kill()
        if not self.is_reaped:
            self._process.kill()
            self._reap()
        self._status.close()
        for descriptor in (self._block_end, self._init):
            if descriptor is not None:
                os.close(descriptor)

    def _is_confined(self) -> bool:
        line, newline, _ = self._status.data.partition(b"\n")
        if self.is_reaped:
            return True
        if not newline:
            return False
        self.init_pid = int(json.loads(line)["child-pid"])
        with contextlib.suppress(OSError):  # it died, which the exit tells
            handle = os.pidfd_open(self.init_pid)
            if self._leaf is not None:
                self._leaf.add(self.init_pid)
            self._init = handle
            os.write(self._block_end, b"x")
        return True

    def _reap(self) -> None:
        self._loop.remove_reader(self._handle)
        os.close(self._handle)
        self._process.wait()
        self._bell.ring()
