"""Process 1 of a container that holds a workspace: runs programs in it, one after the other.

Standard input brings orders, standard output carries answers, each a line of JSON and the bytes
whose lengths it names. No program has either, and this process lets none look into it. Whatever a
program starts is dead before its answer goes out. When standard input closes, so does all.

    host: {"do": "open", "base", "target", "covered", "lengths": [filter]}
    here: {"do": "ready"}, or {"do": "failed", "error"}
    host: {"do": "run", "cpu_seconds", "wall_seconds", "cpus", "caps", "lengths": [start, stdin]}
    here: {"do": "ran", "reason", "status", "cpu_seconds", "kills", "lengths": [a pipe each]}
    host: {"do": "ask", "lengths": [request]}, see `sandboxes.inside.copied`
    here: {"do": "answered", "lengths": [answer]}, or {"do": "failed", "error"}
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
from typing import Any, BinaryIO, NoReturn

from sandboxes.inside import kernel
from sandboxes.inside.copied import answer, copy_tree
from sandboxes.inside.payload import Start, become, write_files
from sandboxes.inside.usage import children, exit_status, num_memory_kills, used_cpu_seconds
from sandboxes.processor_time import was_starved

_POLL_SECONDS = 0.02
_CHUNK_BYTES = 65536
_BROKEN = 125


def main() -> NoReturn:
    """Serve until the host closes standard input."""
    if os.getpid() != 1:  # it kills all that it can see after each program
        sys.stderr.write("sandbox: an engine without process namespaces isolates nothing\n")
        os._exit(_BROKEN)
    kernel.hide()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    orders, answers = sys.stdin.buffer, sys.stdout.buffer
    try:
        while order := orders.readline():
            head = json.loads(order)
            parts = [orders.read(length) for length in head["lengths"]]
            _obey(head, parts, answers)
    finally:
        os._exit(0)


class _Workspace:
    """What `open` said, for the orders after it."""

    seccomp = b""
    base = ""
    target = ""


def _obey(head: dict[str, Any], parts: list[bytes], answers: BinaryIO) -> None:
    said: dict[str, Any]
    given: list[bytes] = []
    try:
        match head["do"]:
            case "open":
                _Workspace.seccomp = parts[0]
                _Workspace.base, _Workspace.target = head["base"], head["target"]
                covered = frozenset(head["covered"])
                copy_tree(_Workspace.base, _Workspace.target, covered=covered)
                said = {"do": "ready"}
            case "run":
                said, given = _run(head, Start(parts[0]), parts[1])
            case _:
                given = [answer(_Workspace.base, _Workspace.target, parts[0])]
                said = {"do": "answered"}
    except (OSError, ValueError, MemoryError, RecursionError) as error:
        said, given = {"do": "failed", "error": f"{type(error).__name__}: {error}"}, []
    answers.write(json.dumps(said | {"lengths": [len(part) for part in given]}).encode() + b"\n")
    for part in given:
        answers.write(part)
    answers.flush()


def _run(head: dict[str, Any], start: Start, stdin: bytes) -> tuple[dict[str, Any], list[bytes]]:
    """Run one program to its end or to its first limit."""
    write_files("/tmp", start.files)
    before, kills = used_cpu_seconds(), num_memory_kills()
    given = os.memfd_create("stdin")
    with open(given, "wb", closefd=False) as file:
        file.write(stdin)
    os.lseek(given, 0, os.SEEK_SET)
    pipes = [os.pipe() for _ in head["caps"]]
    begun, begun_end = os.pipe()
    program = os.fork()
    if program == 0:
        ends = [write for _, write in pipes]
        become(start, seccomp=_Workspace.seccomp, descriptors=[given, *ends], begun=begun_end)
    for descriptor in (given, begun_end, *(write for _, write in pipes)):
        os.close(descriptor)
    outputs = _Outputs([read for read, _ in pipes], head["caps"])
    has_begun = os.read(begun, 1) == b"1"
    os.close(begun)
    reason, status = _watch(program, outputs, head, cpu_limit=before + head["cpu_seconds"])
    used = max(used_cpu_seconds() - before, 0.0)
    _kill_all()
    said = {
        "do": "ran",
        "reason": reason if has_begun else "failed",
        "status": status,
        "cpu_seconds": used,
        "kills": num_memory_kills() - kills,
    }
    return said, outputs.finish()


class _Outputs:
    """The read ends of a program's pipes, each kept up to its cap; output and error first."""

    def __init__(self, descriptors: list[int], caps: list[int]) -> None:
        self._data = {descriptor: bytearray() for descriptor in descriptors}
        self._caps = dict(zip(descriptors, caps, strict=True))
        self._standard = descriptors[:2]
        self.poll = select.poll()
        for descriptor in descriptors:
            os.set_blocking(descriptor, False)
            self.poll.register(descriptor, select.POLLIN)

    @property
    def has_overflowed(self) -> bool:
        """Whether a program said more than it may."""
        return any(len(self._data[d]) > self._caps[d] for d in self._standard)

    def take(self, descriptor: int) -> bool:
        """Read once; return whether there was something."""
        try:
            chunk = os.read(descriptor, _CHUNK_BYTES)
        except BlockingIOError:
            return False
        if not chunk:
            with contextlib.suppress(KeyError):
                self.poll.unregister(descriptor)
            return False
        room = self._caps[descriptor] + 1 - len(self._data[descriptor])
        self._data[descriptor] += chunk[: max(room, 0)]
        return True

    def finish(self) -> list[bytes]:
        """Read what is left, now that nobody writes any more, and close."""
        for descriptor in self._data:
            while self.take(descriptor):
                pass
            os.close(descriptor)
        return [bytes(data[: self._caps[d]]) for d, data in self._data.items()]


def _watch(
    program: int, outputs: _Outputs, head: dict[str, Any], *, cpu_limit: float
) -> tuple[str, int]:
    """Bury orphans until the program ends or breaks a limit; return why it ended, and how."""
    deadline = time.monotonic() + head["wall_seconds"]
    outputs.poll.register(0, select.POLLIN | select.POLLHUP)
    wait = 0.001
    while True:
        pid, ended = os.waitpid(-1, os.WNOHANG)
        if pid == program:
            outputs.poll.unregister(0)
            return "output" if outputs.has_overflowed else "ended", exit_status(ended)
        if pid != 0:
            continue
        for descriptor, _ in outputs.poll.poll(int(1000 * wait) or 1):
            if descriptor == 0:  # the host is gone: it says nothing while a program runs
                os._exit(0)
            outputs.take(descriptor)
        wait = min(2 * wait, _POLL_SECONDS)
        if outputs.has_overflowed:
            reason = "output"
        elif used_cpu_seconds() >= cpu_limit:
            reason = "cpu"
        elif time.monotonic() >= deadline:
            wall_seconds = head["wall_seconds"]
            starved = was_starved(children(), wall_seconds=wall_seconds, cpus=head["cpus"])
            reason = "starved" if starved else "wall"
        else:
            continue
        outputs.poll.unregister(0)
        return reason, _BROKEN


def _kill_all() -> None:
    """Kill all but this process, and bury them."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, 0)
