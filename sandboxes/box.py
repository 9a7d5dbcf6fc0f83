"""The host's end of one container: feeds it, caps what it says, and reads its report."""

import asyncio
import contextlib
import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack

from sandboxes.base import ExecResult, Limits, Outcome, lost
from sandboxes.bell import Bell
from sandboxes.inside.boxed import REPORT_BYTES, STARTED
from sandboxes.jail import KILLED_FOR_CPU_TIME
from sandboxes.pipes import CappedReader

_GRACE_SECONDS = 120.0  # to start and to end
_DRAIN_SECONDS = 10.0


class Box:
    """One container; made by `open_box`."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        limits: Limits,
        *,
        stdout: CappedReader,
        stderr: CappedReader,
        bell: Bell,
    ) -> None:
        """Take the engine's process and its streams."""
        self._process = process
        self._limits = limits
        self._stdout = stdout
        self._stderr = stderr
        self._bell = bell
        self._ended = asyncio.create_task(process.wait())
        self._ended.add_done_callback(lambda _: bell.ring())

    async def follow(self, request: bytes) -> bool:
        """Hand it its request and wait for its end; return False where it must be removed."""
        stdin = self._process.stdin
        assert stdin is not None
        try:
            async with asyncio.timeout(self._limits.wall_seconds + _GRACE_SECONDS):
                with contextlib.suppress(ConnectionError):  # it died, which the exit tells
                    stdin.write(request)
                    await stdin.drain()
                while not self._ended.done() and not self._has_overflowed:
                    await self._bell.sleep(_GRACE_SECONDS)
        except TimeoutError:
            return False
        if self._has_overflowed:
            return False
        await self._bell.wait(lambda: self._is_drained, seconds=_DRAIN_SECONDS)
        return True

    def result(self, *, has_ended: bool, wall_seconds: float) -> ExecResult:
        """Say what happened."""
        data = self._stdout.data
        error = self._stderr.data
        if not data.startswith(STARTED):
            return lost(f"the container did not start: {error.decode(errors='replace').strip()}")
        output = data.removeprefix(STARTED)
        if self._has_overflowed:
            outcome, exit_code, used = Outcome.OUTPUT_LIMIT, None, 0.0
        elif not has_ended:
            return lost("the container did not end")
        else:
            outcome, exit_code, used = _read_report(output[-REPORT_BYTES:])
            output = output[:-REPORT_BYTES]
        return ExecResult(
            outcome=outcome,
            exit_code=exit_code,
            stdout=output[: self._limits.output_bytes],
            stderr=error if outcome is not Outcome.LOST else b"the container was lost: " + error,
            cpu_seconds=used,
            wall_seconds=wall_seconds,
        )

    def let_go(self) -> None:
        """Free it; a container that still runs ends itself with its standard input."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        if not self._ended.done():
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        self._ended.cancel()

    @property
    def _has_overflowed(self) -> bool:
        return self._stdout.has_overflowed or self._stderr.has_overflowed

    @property
    def _is_drained(self) -> bool:
        return self._stdout.is_finished and self._stderr.is_finished


async def open_box(command: Sequence[str], limits: Limits, owned: ExitStack) -> Box:
    """Start a container.

    Args:
        command: The engine's.
        limits: Of its program.
        owned: Frees its streams.

    Raises:
        OSError: The engine could not be started.
    """
    bell = Bell()
    readers = []
    with ExitStack() as theirs:
        ends = []
        for most in (limits.output_bytes + len(STARTED) + REPORT_BYTES, limits.output_bytes):
            read, write = os.pipe()
            theirs.callback(os.close, write)
            ends.append(write)
            reader = CappedReader(read, max_bytes=most, on_change=bell.ring)
            owned.callback(reader.close)
            readers.append(reader)
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=ends[0],
            stderr=ends[1],
            cwd=tempfile.gettempdir(),  # podman's monitor leaves a file `oom` where it was started
            start_new_session=True,
        )
    return Box(process, limits, stdout=readers[0], stderr=readers[1], bell=bell)


def _read_report(report: bytes) -> tuple[Outcome, int | None, float]:
    """Return outcome, exit status and CPU seconds."""
    try:
        reason, status, microseconds, num_kills = report.decode().split()
        exit_code, used = int(status), int(microseconds) / 1e6
    except ValueError:
        return Outcome.LOST, None, 0.0
    if reason in ("failed", "starved"):
        return Outcome.LOST, None, used
    if int(num_kills) > 0:
        return Outcome.OUT_OF_MEMORY, None, used
    if reason != "ended" or exit_code == KILLED_FOR_CPU_TIME:
        return Outcome.TIMED_OUT, None, used
    return Outcome.EXITED, exit_code, used
