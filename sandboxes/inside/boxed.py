"""Process 1 of a container: runs one program, watches its limits, and reports as the last.

Standard input brings the request and stays open as long as the host wants the program to run.
Standard output carries one byte that says that the program begins, then its output, then a report
of fixed length. When the report is written nothing else is alive, so its place cannot be forged.

    request: three lengths and a line end, then the filter, the start message and the program's
             standard input
    report:  "<reason> <exit status> <cpu microseconds> <memory kills>", padded with spaces
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from typing import NoReturn

from sandboxes.inside import kernel
from sandboxes.inside.payload import Start, become, write_files
from sandboxes.inside.usage import children, exit_status, num_memory_kills, used_cpu_seconds
from sandboxes.processor_time import was_starved

STARTED = b"\n"
REPORT_BYTES = 64

_POLL_SECONDS = 0.02
_BROKEN = 125


def main(cpu_seconds: float, wall_seconds: float, cpus: float) -> NoReturn:
    """Run the program that standard input brings.

    Args:
        cpu_seconds: CPU time of all its processes.
        wall_seconds: Wall time.
        cpus: CPUs that it may use at once.
    """
    if os.getpid() != 1:  # it kills all that it can see in the end
        os.write(2, b"sandbox: an engine without process namespaces isolates nothing\n")
        os._exit(_BROKEN)
    try:
        kernel.hide()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        seccomp, start, stdin = _read_request()
        write_files("/tmp", start.files)
        before = used_cpu_seconds()
        program, has_begun = _fork(start, seccomp, stdin)
        reason, status = "failed", _BROKEN
        if has_begun:
            limit = before + cpu_seconds
            reason, status = _watch(program, limit, wall_seconds=wall_seconds, cpus=cpus)
        used = int(1e6 * max(used_cpu_seconds() - before, 0.0))
        with contextlib.suppress(ProcessLookupError):
            os.kill(-1, signal.SIGKILL)  # all but this one
        if reason != "abandoned":
            report = f"{reason} {status} {used} {num_memory_kills()}"
            os.set_blocking(1, True)  # the program shares this description, and may have undone it
            os.write(1, report.encode().ljust(REPORT_BYTES))
    except OSError as error:
        os.write(2, f"sandbox: {error}\n".encode())
    finally:
        os._exit(0)


def _read_request() -> tuple[bytes, Start, int]:
    """Return filter, start message, and a descriptor with the program's own standard input."""
    header = b""
    while not header.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            raise OSError("the request is cut off")
        header += byte
    lengths = [int(word) for word in header.split()]
    seccomp, start, given = (_read_exactly(length) for length in lengths)
    stdin = os.memfd_create("stdin")
    with open(stdin, "wb", closefd=False) as file:
        file.write(given)
    os.lseek(stdin, 0, os.SEEK_SET)
    return seccomp, Start(start), stdin


def _read_exactly(length: int) -> bytes:
    parts = []
    while length > 0:
        part = os.read(0, min(length, 1 << 20))
        if not part:
            raise OSError("the request is cut off")
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


def _fork(start: Start, seccomp: bytes, stdin: int) -> tuple[int, bool]:
    """Start the program; return its number and whether it has begun."""
    begun, begun_end = os.pipe()
    os.write(1, STARTED)
    program = os.fork()
    if program == 0:
        become(start, seccomp=seccomp, descriptors=[stdin, 1, 2], begun=begun_end)
    os.close(begun_end)
    has_begun = os.read(begun, 1) == b"1"
    return program, has_begun


def _watch(program: int, cpu_limit: float, *, wall_seconds: float, cpus: float) -> tuple[str, int]:
    """Bury orphans until the program ends or breaks a limit; return why it ended, and how."""
    deadline = time.monotonic() + wall_seconds
    host = select.poll()
    host.register(0, select.POLLIN | select.POLLHUP)
    wait = 0.001
    while True:
        pid, ended = os.waitpid(-1, os.WNOHANG)
        if pid == program:
            return "ended", exit_status(ended)
        if pid != 0:
            continue
        if host.poll(int(1000 * wait) or 1):
            return "abandoned", _BROKEN
        wait = min(2 * wait, _POLL_SECONDS)
        if used_cpu_seconds() >= cpu_limit:
            return "cpu", _BROKEN
        if time.monotonic() >= deadline:
            starved = was_starved(children(), wall_seconds=wall_seconds, cpus=cpus)
            return "starved" if starved else "wall", _BROKEN
