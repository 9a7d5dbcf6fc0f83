"""Programs as answers: they run in the sandbox against tests whose outputs never go in there."""

import asyncio
import dataclasses
import re
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cispo.values
from cispo.types import Ungraded
from rewards.attempts import Attempts, is_killed
from rewards.code_tests import CodeTests, code_tests
from rewards.explained import Explained, failed_tests
from rewards.truth import BadTruthError
from sandboxes.base import Limits, Outcome, Program, Sandbox

_DRIVER = Path(__file__).with_name("driver.py").read_bytes()
_VALUES = Path(cispo.values.__file__).read_bytes()
_FRAME = re.compile(rb"(\d{1,6}) (-?\d{1,4}) (\d{1,9})\n")
_FRAME_BYTES = 32
_SOURCE_BYTES = 2**18

Run = tuple[int, bytes]
"""Exit code, negative after a signal, and output of one test."""


class CodeGrader:
    """Runs programs, a few at a time."""

    def __init__(self, sandbox: Sandbox, limits: Limits, *, max_concurrent: int) -> None:
        """Take the sandbox.

        Args:
            sandbox: Where programs run.
            limits: Of one program, all its tests together.
            max_concurrent: Programs that run at once.
        """
        self._sandbox = sandbox
        self._limits = limits
        self._slots = asyncio.Semaphore(max_concurrent)

    async def grade(self, source: str, truth: Mapping[str, Any]) -> Mapping[str, float] | Ungraded:
        """Return the parts alone; see `explain`."""
        found = await self.explain(source, truth)
        return found if isinstance(found, Ungraded) else found.parts

    async def explain(self, source: str, truth: Mapping[str, Any]) -> Explained | Ungraded:
        """Return `passed_fraction` of the tests, and `correct`, which is 1.0 where all passed.

        A run that was lost or killed is made again: whoever kills from outside the sandbox costs no
        verdict, and a program that kills itself does it every time.

        Args:
            source: The program.
            truth: See `rewards.code_tests.code_tests`.
        """
        try:
            tests = code_tests(truth)
        except BadTruthError as error:
            return Ungraded(cause=f"code: {error}")
        encoded = source.encode(errors="replace")
        if not encoded.strip() or len(encoded) > _SOURCE_BYTES:
            nothing = {"correct": 0.0, "passed_fraction": 0.0}
            return Explained(parts=nothing, output="there is no program, or one that is too long")
        limits = self._limits_for(tests)
        program = Program(
            argv=("python3", "-I", "-S", "driver.py", str(limits.output_bytes), tests.function),
            stdin=_frames([encoded, *tests.inputs]),
            files={"driver.py": _DRIVER, "values.py": _VALUES},
        )
        attempts, again = Attempts(), True
        while again:
            async with self._slots:
                result = await self._sandbox.run(program, limits)
            runs = read_runs(result.stdout)
            again = attempts.again(result, killed=is_killed(result) or _has_killed_test(runs))
        if result.outcome is Outcome.LOST:
            reason = result.stderr.decode(errors="replace").strip().rpartition("\n")[2]
            return Ungraded(cause=f"code: the sandbox was lost {reason}")
        num_tests = len(tests.inputs)
        failed = [
            (index, *runs.get(index, (None, b"")))
            for index in range(num_tests)
            if not (index in runs and runs[index][0] == 0 and tests.expects(index, runs[index][1]))
        ]
        parts = {
            "correct": float(not failed),
            "passed_fraction": (num_tests - len(failed)) / num_tests,
        }
        return Explained(
            parts=parts,
            output=failed_tests(failed, num_tests, outcome=result.outcome, stderr=result.stderr),
        )

    def _limits_for(self, tests: CodeTests) -> Limits:
        """Leave room for the longest right answers."""
        needed = tests.output_bytes + _FRAME_BYTES * len(tests.inputs)
        return dataclasses.replace(
            self._limits, output_bytes=max(self._limits.output_bytes, needed)
        )


def read_runs(stdout: bytes) -> dict[int, Run]:
    """Read the driver's frames by test, up to what is none; the first of a test counts."""
    runs: dict[int, Run] = {}
    position = 0
    while header := _FRAME.match(stdout, position):
        end = header.end() + int(header[3])
        if end > len(stdout):
            break
        runs.setdefault(int(header[1]), (int(header[2]), stdout[header.end() : end]))
        position = end
    return runs


def _has_killed_test(runs: Mapping[int, Run]) -> bool:
    return any(code == -signal.SIGKILL for code, _ in runs.values())


def _frames(contents: Sequence[bytes]) -> bytes:
    return b"".join(b"%d\n" % len(content) + content for content in contents)
