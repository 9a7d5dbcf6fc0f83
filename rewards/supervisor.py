"""Serves gradings from a warm child that may be killed: `python -m rewards.supervisor`.

The supervisor imports the graders once and forks a child that gives up its privileges. It passes
requests on, one line of JSON each, and never looks at an answer itself. A child that is over its
deadline is killed and replaced by a fork, which takes milliseconds. Lines that come back:

    {"parts": {...}}           the grading
    {"bad_truth": "..."}       the reference cannot be read
    {"died": "..."}            the child ended without an answer
    {"deadline": true}         the child was killed at its deadline
    {"starved": true}          the same, but it had got less than a tenth of that time to compute

The first line is `READY`, or {"refused": "..."} where a user's file cannot be run.
"""

import argparse
import contextlib
import gc
import importlib
import json
import logging
import os
import select
import signal
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from cispo.errors import ConfigError
from rewards import own_function
from rewards.lockdown import lock_down
from rewards.truth import BadTruthError

GRADERS = {
    "math": ("rewards.math", "grade_math"),
    "logic": ("rewards.logic", "grade_logic"),
    "recall": ("rewards.recall", "grade_recall"),
}
READY = b'{"ready": true}\n'

_CHUNK_BYTES = 65536
_MAX_RESPONSE_BYTES = 65536

Grader = Callable[[str, Mapping[str, Any]], Mapping[str, float]]


class Lines:
    """Lines from a descriptor."""

    def __init__(self, descriptor: int, *, max_bytes: int | None = None) -> None:
        """Read from `descriptor`; a line over `max_bytes` counts as the end."""
        self.descriptor = descriptor
        self._max_bytes = max_bytes
        self._data = b""

    def pop(self) -> bytes | None:
        """Return a whole line that has come, or None."""
        line, newline, rest = self._data.partition(b"\n")
        if not newline:
            return None
        self._data = rest
        return line + newline

    def read(self) -> bool:
        """Wait for more; return False at the end."""
        chunk = os.read(self.descriptor, _CHUNK_BYTES)
        self._data += chunk
        return bool(chunk) and (self._max_bytes is None or len(self._data) <= self._max_bytes)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left over."""
        return not self._data


class OutOfTimeError(Exception):
    """The deadline of a request has passed.

    Attributes:
        is_starved: Whether the child got less than a tenth of that time to compute.
    """

    def __init__(self, *, is_starved: bool) -> None:
        super().__init__(is_starved)
        self.is_starved = is_starved


class Child:
    """A forked grader."""

    def __init__(self, graders: Mapping[str, Grader], *, memory_bytes: int) -> None:
        """Fork; the parent must have one thread."""
        request_read, self._request_end = os.pipe()
        response_end, response_write = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._request_end)
            os.close(response_end)
            _be_child(graders, request_read, response_write, memory_bytes=memory_bytes)
        os.close(request_read)
        os.close(response_write)
        self._responses = Lines(response_end, max_bytes=_MAX_RESPONSE_BYTES)

    def ask(self, request: bytes, *, deadline_seconds: float, requests: Lines) -> bytes | None:
        """Return the response, or None where the child is to be buried: it ended or says too much.

        Raises:
            OutOfTimeError: The deadline has passed.
            EOFError: Our own client is gone.
        """
        deadline = time.monotonic() + deadline_seconds
        cpu_seconds = self._cpu_seconds()
        try:
            _write(self._request_end, request)
        except BrokenPipeError:
            return None
        watched = [self._responses.descriptor, requests.descriptor]
        while True:
            left = deadline - time.monotonic()
            readable = select.select(watched, [], [], max(left, 0.0))[0]
            if requests.descriptor in readable and not requests.read():
                raise EOFError
            if self._responses.descriptor in readable:
                if not self._responses.read():
                    return None
                if (response := self._responses.pop()) is not None:
                    return response if self._responses.is_empty else None
            if left <= 0:
                used = self._cpu_seconds() - cpu_seconds
                raise OutOfTimeError(is_starved=used < deadline_seconds / 10)

    def _cpu_seconds(self) -> float:
        """Return its processor time so far, by the clock that Linux has for every process."""
        return time.clock_gettime((~self._pid << 3) | 2)

    def bury(self) -> str:
        """Kill it, and say how it ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        os.close(self._request_end)
        os.close(self._responses.descriptor)
        return f"signal {-status}" if status < 0 else f"exit status {status}"


def serve(names: list[str], *, deadline_seconds: float, memory_bytes: int) -> None:
    """Answer requests from standard input on standard output until it closes."""
    output = os.dup(1)
    quiet = os.open(os.devnull, os.O_RDWR)
    os.dup2(quiet, 1)  # libraries may print
    try:
        graders = {name: _load(name) for name in names}
    except ConfigError as error:
        _write(output, json.dumps({"refused": str(error)}).encode() + b"\n")
        return
    gc.freeze()
    child = Child(graders, memory_bytes=memory_bytes)
    requests = Lines(0)
    _write(output, READY)
    while True:
        while (request := requests.pop()) is None:
            if not requests.read():
                child.bury()
                return
        try:
            response = child.ask(request, deadline_seconds=deadline_seconds, requests=requests)
        except OutOfTimeError as error:
            child.bury()
            response = b'{"starved": true}\n' if error.is_starved else b'{"deadline": true}\n'
            child = Child(graders, memory_bytes=memory_bytes)
        except EOFError:
            child.bury()
            return
        if response is None:
            response = json.dumps({"died": child.bury()}).encode() + b"\n"
            child = Child(graders, memory_bytes=memory_bytes)
        _write(output, response)


def _be_child(
    graders: Mapping[str, Grader], requests: int, responses: int, *, memory_bytes: int
) -> None:
    """Grade until the pipe closes; never returns."""
    status = 1
    try:
        for descriptor in (0, 2):
            os.dup2(1, descriptor)
        assert min(requests, responses) > 4
        os.dup2(requests, 3)
        os.dup2(responses, 4)
        os.closerange(5, 256)
        lock_down(memory_bytes=memory_bytes)
        lines = Lines(3)
        while True:
            while (line := lines.pop()) is None:
                if not lines.read():
                    status = 0
                    return
            _write(4, json.dumps(_grade(graders, json.loads(line))).encode() + b"\n")
    finally:
        os._exit(status)


def _grade(graders: Mapping[str, Grader], request: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        return {"parts": graders[request["verifier"]](request["answer"], request["truth"])}
    except BadTruthError as error:
        return {"bad_truth": str(error)}
    except Exception:  # the policy wrote what the library cannot stand, so it is wrong, and counted
        return {"parts": {"correct": 0.0, "grader_error": 1.0}}


def _load(name: str) -> Grader:
    if own_function.is_own(name):
        return own_function.load(name)
    module, function = GRADERS[name]
    grader: Grader = getattr(importlib.import_module(module), function)
    return grader


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def main() -> None:
    """Serve the verifiers named on the command line."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--deadline-seconds", type=float, required=True)
    parser.add_argument("--memory-bytes", type=int, required=True)
    parser.add_argument("names", nargs="+", help=f"of {', '.join(GRADERS)}, or FILE.py:FUNCTION")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    sys.setrecursionlimit(2000)
    serve(
        arguments.names,
        deadline_seconds=arguments.deadline_seconds,
        memory_bytes=arguments.memory_bytes,
    )


if __name__ == "__main__":
    main()
