"""The killable grader: right answers, hostile answers, and deaths."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from cispo.types import Ungraded
from rewards.grader_process import GraderProcess

DEADLINE_SECONDS = 2.0
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def grader() -> AsyncIterator[GraderProcess]:
    process = GraderProcess(["math"], deadline_seconds=DEADLINE_SECONDS)
    await process.start()
    yield process
    await process.close()


async def correct(grader: GraderProcess, answer: str, reference: str) -> float:
    graded = await grader.grade("math", answer, {"answer": reference})
    assert not isinstance(graded, Ungraded), graded
    return graded["correct"]


HOSTILE = {
    "tower of powers": r"\boxed{9^{9^{9^{9}}}}",
    "plain tower": "9**9**9**9**9",
    "factorial": r"\boxed{10000000!}",
    "long sum": r"\boxed{\sum_{i=1}^{10^{12}} i^{i}}",
    "deep braces": r"\boxed{" + "{" * 500 + "1" + "}" * 500 + "}",
    "deep brackets": r"\boxed{" + "(" * 1500 + "1" + ")" * 1500 + "}",
    "deep fractions": r"\boxed{" + r"\frac{1}{" * 300 + "2" + "}" * 301,
    "many digits": "9" * 4000,
    "megabytes": "1+" * 2**20 + "1",
    "control characters": "\x00\n\r\x1b[2J\u202e\ud7ff",
    "code": r"\boxed{__import__('os').system('touch {marker}')}",
    "plain code": "__import__('os').system('touch {marker}')",
}


async def test_a_hostile_answer_costs_its_deadline_and_no_more(
    grader: GraderProcess, tmp_path: Path
) -> None:
    marker = tmp_path / "marker"
    for name, answer in HOSTILE.items():
        started = time.monotonic()
        graded = await grader.grade(
            "math", answer.replace("{marker}", str(marker)), {"answer": "5"}
        )
        assert not isinstance(graded, Ungraded), name
        assert graded["correct"] == 0.0, name
        assert time.monotonic() - started < DEADLINE_SECONDS + 5.0, name
        assert await correct(grader, r"\boxed{5}", "5") == 1.0, f"after {name}"
    assert not marker.exists()


async def test_a_missed_deadline_is_the_answers_fault(grader: GraderProcess) -> None:
    graded = await grader.grade("math", HOSTILE["tower of powers"], {"answer": "5"})
    assert graded == {"correct": 0.0, "deadline_missed": 1.0}


@pytest.mark.parametrize("truth", [{}, {"answer": 5}, {"answer": ""}, {"answer": "  "}])
async def test_a_reference_that_cannot_be_read_is_ungraded(
    grader: GraderProcess, truth: dict[str, Any]
) -> None:
    assert isinstance(await grader.grade("math", r"\boxed{5}", truth), Ungraded)


async def test_killing_the_child_or_the_supervisor_costs_no_verdict(grader: GraderProcess) -> None:
    for _ in range(2):
        supervisor = _descendants(os.getpid(), b"rewards.supervisor")
        os.kill(supervisor[-1], signal.SIGKILL)  # the child, while idle
        assert await correct(grader, r"\boxed{5}", "5") == 1.0
    os.kill(_descendants(os.getpid(), b"rewards.supervisor")[0], signal.SIGKILL)
    assert await correct(grader, r"\boxed{5}", "5") == 1.0


async def test_killing_the_child_once_in_the_middle_of_a_grading_costs_no_verdict(
    grader: GraderProcess,
) -> None:
    grading = asyncio.create_task(grader.grade("math", HOSTILE["plain tower"], {"answer": "5"}))
    await asyncio.sleep(0.5)
    os.kill(_descendants(os.getpid(), b"rewards.supervisor")[-1], signal.SIGKILL)
    graded = await grading
    assert not isinstance(graded, Ungraded)
    assert graded["correct"] == 0.0


async def test_a_child_that_dies_twice_is_ungraded(grader: GraderProcess) -> None:
    grading = asyncio.create_task(grader.grade("math", HOSTILE["plain tower"], {"answer": "5"}))
    for _ in range(2):
        await asyncio.sleep(0.5)
        os.kill(_descendants(os.getpid(), b"rewards.supervisor")[-1], signal.SIGKILL)
    graded = await grading
    assert isinstance(graded, Ungraded)
    assert "signal 9" in graded.cause


async def test_a_cancelled_grading_does_not_answer_the_next(grader: GraderProcess) -> None:
    grading = asyncio.create_task(grader.grade("math", HOSTILE["plain tower"], {"answer": "5"}))
    await asyncio.sleep(0.3)
    grading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await grading
    assert await correct(grader, r"\boxed{5}", "5") == 1.0
    assert await correct(grader, r"\boxed{6}", "5") == 0.0


async def test_many_gradings_at_once_get_their_own_answers(grader: GraderProcess) -> None:
    answers = await asyncio.gather(
        *(correct(grader, rf"\boxed{{{n}}}", str(n - n % 2)) for n in range(40))
    )
    assert answers == [float(n % 2 == 0) for n in range(40)]


async def test_closing_leaves_no_process() -> None:
    others = _descendants(os.getpid(), b"rewards.supervisor")
    process = GraderProcess(["math"], deadline_seconds=DEADLINE_SECONDS)
    await process.start()
    started = set(_descendants(os.getpid(), b"rewards.supervisor")) - set(others)
    assert len(started) == 2
    await process.close()
    for _ in range(100):
        if not any(map(_exists, started)):
            return
        await asyncio.sleep(0.05)
    pytest.fail("the grader's child outlives it")


def _exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def _descendants(pid: int, command: bytes) -> list[int]:
    """Processes below `pid` with `command` in their command line, parents first."""
    found: list[int] = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, children.read_text().split()):
            if command in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(child)
            found += _descendants(child, command)
    return found
