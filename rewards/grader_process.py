"""The client of a killable grader: starts its supervisor, asks it, and replaces it when it dies."""

import asyncio
import json
import math
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping, Sequence
from typing import Any

from cispo.errors import ConfigError
from cispo.types import Ungraded
from rewards.supervisor import READY

_ATTEMPTS = 2
_START_SECONDS = 180.0
_GRACE_SECONDS = 30.0
_LINE_BYTES = 2**20
_MEMORY_BYTES = 2 * 2**30


class GraderProcess:
    """Grades answers in a process of its own, which a hostile answer takes down alone."""

    def __init__(self, names: Sequence[str], *, deadline_seconds: float) -> None:
        """Prepare; the process starts with the first grading, or with `start`.

        Args:
            names: Graders to load: of `rewards.supervisor.GRADERS`, or `FILE.py:FUNCTION`.
            deadline_seconds: Wall time after which an answer counts as wrong.
        """
        self._names = names
        self._deadline_seconds = deadline_seconds
        self._process: Process | None = None
        self._turn = asyncio.Lock()

    async def start(self) -> None:
        """Start the process and wait until it is warm.

        Raises:
            ConfigError: A user's file cannot be run.
            RuntimeError: It ends, or says nothing for three minutes.
        """
        async with self._turn:
            await self._running()

    async def grade(
        self, name: str, answer: str, truth: Mapping[str, Any]
    ) -> Mapping[str, float] | Ungraded:
        """Return named parts.

        A missed deadline is `correct` 0.0, for the policy wrote the answer. A process that dies by
        itself twice, one that twice got hardly any processor time, or a reference that cannot be
        read, is `Ungraded`.
        """
        request = json.dumps({"verifier": name, "answer": answer, "truth": truth}) + "\n"
        cause = ""
        for _ in range(_ATTEMPTS):
            async with self._turn:
                try:
                    response = await self._ask(request.encode())
                except (RuntimeError, OSError, TimeoutError, ValueError) as error:
                    cause = f"the grader process failed: {error!r}"
                    continue
            match response:
                case {"parts": dict() as parts} if _are_parts(parts):
                    return parts
                case {"deadline": True}:
                    return {"correct": 0.0, "deadline_missed": 1.0}
                case {"starved": True}:
                    cause = "the grader got hardly any processor time"
                case {"bad_truth": reason}:
                    return Ungraded(cause=f"{name}: {reason}", is_for_good=True)
                case _:
                    cause = f"the grader died: {response}"
        return Ungraded(cause=f"{name}: {cause}")

    async def close(self) -> None:
        """Stop the process."""
        process, self._process = self._process, None
        if process is not None:
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def _ask(self, request: bytes) -> Any:
        process = await self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        is_answered = False
        try:
            process.stdin.write(request)
            await process.stdin.drain()
            limit = self._deadline_seconds + _GRACE_SECONDS
            async with asyncio.timeout(limit):
                line = await process.stdout.readline()
            if not line:
                raise RuntimeError("it ended without an answer")
            is_answered = True
            return json.loads(line)
        finally:
            if not is_answered:  # also when cancelled: the coming answer would be for nobody
                self._abandon()

    async def _running(self) -> Process:
        if self._process is not None and self._process.returncode is None:
            return self._process
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "rewards.supervisor", "--deadline-seconds", str(self._deadline_seconds)),
            *("--memory-bytes", str(_MEMORY_BYTES), *self._names),
            stdin=PIPE,
            stdout=PIPE,
            limit=_LINE_BYTES,
            env=_environment(),
            start_new_session=True,
        )
        self._process = process
        assert process.stdout is not None
        said = b""
        try:
            async with asyncio.timeout(_START_SECONDS):
                said = await process.stdout.readline()
        finally:
            if said != READY:
                self._abandon()
        if said != READY:
            await process.wait()
            raise _refusal(said)
        return process

    def _abandon(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            process.kill()


def _refusal(said: bytes) -> Exception:
    """Why it did not start: a user's file, or nobody knows."""
    if said.startswith(b'{"refused"'):
        return ConfigError(json.loads(said)["refused"])
    return RuntimeError("it did not start")


def _environment() -> dict[str, str]:
    """Return what imports need, and none of this process's secrets."""
    environment = {
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    for name in ("PATH", "LANG", "LD_LIBRARY_PATH"):
        if name in os.environ:
            environment[name] = os.environ[name]
    return environment


def _are_parts(parts: Mapping[str, Any]) -> bool:
    return "correct" in parts and all(
        isinstance(value, float) and math.isfinite(value) and 0.0 <= value <= 1.0
        for value in parts.values()
    )
