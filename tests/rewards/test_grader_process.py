"""The killable grader: right answers, hostile answers, and deaths."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from cispo.types import Ungraded
from rewards.grader_process import GraderProcess
from sandboxes.processor_time import tree_cpu_seconds
from tests.waiting import until

PATIENT_SECONDS = 100.0
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def grader() -> AsyncIterator[GraderProcess]:
    """A grader whose deadline only an endless grading can miss."""
    process = GraderProcess(["math"], deadline_seconds=PATIENT_SECONDS)
    await process.start()
    yield process
    await process.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hasty(grader: GraderProcess) -> AsyncIterator[GraderProcess]:
    """A grader with the shortest deadline that this machine keeps with ease."""
    await kill_child(grader)  # the first grading of a child takes longest
    started = time.monotonic()
    assert await correct(grader, r"\boxed{5}", "5") == 1.0
    seconds = max(1.0, 8.0 * (time.monotonic() - started))
    process = GraderProcess(["math"], deadline_seconds=seconds)
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

# Takes a second or two, and is wrong in the end.
SLOW = HOSTILE["deep fractions"]


async def graded_in_the_end(
    grader: GraderProcess, answer: str, reference: str
) -> Mapping[str, float]:
    """What a busy machine does not get done is asked for again."""
    while True:
        graded = await grader.grade("math", answer, {"answer": reference})
        if not isinstance(graded, Ungraded):
            return graded
        assert "hardly any processor time" in graded.cause


async def correct_in_the_end(grader: GraderProcess, answer: str, reference: str) -> float:
    """As `correct`, but a deadline that a busy machine missed is no answer."""
    while "deadline_missed" in (graded := await graded_in_the_end(grader, answer, reference)):
        pass
    return graded["correct"]


async def test_a_hostile_answer_is_wrong_and_harms_no_other(
    hasty: GraderProcess, tmp_path: Path
) -> None:
    marker = tmp_path / "marker"
    for name, answer in HOSTILE.items():
        graded = await graded_in_the_end(hasty, answer.replace("{marker}", str(marker)), "5")
        assert graded["correct"] == 0.0, name
        assert await correct_in_the_end(hasty, r"\boxed{5}", "5") == 1.0, f"after {name}"
    assert not marker.exists()


async def test_a_missed_deadline_is_the_answers_fault(hasty: GraderProcess) -> None:
    graded = await graded_in_the_end(hasty, HOSTILE["tower of powers"], "5")
    assert graded == {"correct": 0.0, "deadline_missed": 1.0}


@pytest.mark.parametrize("truth", [{}, {"answer": 5}, {"answer": ""}, {"answer": "  "}])
async def test_a_reference_that_cannot_be_read_is_ungraded(
    grader: GraderProcess, truth: dict[str, Any]
) -> None:
    assert isinstance(await grader.grade("math", r"\boxed{5}", truth), Ungraded)


async def test_killing_the_child_or_the_supervisor_costs_no_verdict(grader: GraderProcess) -> None:
    for _ in range(2):
        await kill_child(grader)
        assert await correct(grader, r"\boxed{5}", "5") == 1.0
    os.kill(supervisor(grader), signal.SIGKILL)
    assert await correct(grader, r"\boxed{5}", "5") == 1.0


async def test_killing_the_child_once_in_the_middle_of_a_grading_costs_no_verdict(
    grader: GraderProcess,
) -> None:
    grading = asyncio.create_task(grader.grade("math", SLOW, {"answer": "5"}))
    await kill_child(grader, used_seconds=0.05)
    assert await grading == {"correct": 0.0}


async def test_a_child_that_dies_twice_is_ungraded(grader: GraderProcess) -> None:
    grading = asyncio.create_task(grader.grade("math", HOSTILE["plain tower"], {"answer": "5"}))
    for _ in range(2):
        await kill_child(grader, used_seconds=0.05)
    graded = await grading
    assert isinstance(graded, Ungraded)
    assert "signal 9" in graded.cause


async def test_a_cancelled_grading_does_not_answer_the_next(grader: GraderProcess) -> None:
    grading = asyncio.create_task(grader.grade("math", HOSTILE["plain tower"], {"answer": "5"}))
    await used_by_child(grader, 0.05)
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


async def test_a_grader_that_gets_no_processor_time_is_asked_again(grader: GraderProcess) -> None:
    process = GraderProcess(["math"], deadline_seconds=10.0)
    await process.start()
    os.kill(await used_by_child(process, 0.0), signal.SIGSTOP)
    assert await process.grade("math", r"\boxed{5}", {"answer": "5"}) == {"correct": 1.0}
    await process.close()


async def test_closing_leaves_no_process() -> None:
    process = GraderProcess(["math"], deadline_seconds=PATIENT_SECONDS)
    await process.start()
    started = [supervisor(process), *children(process)]
    assert len(started) == 2
    await process.close()
    await until(lambda: not any(map(exists, started)), what="the grader's child ends with it")


def exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def supervisor(grader: GraderProcess) -> int:
    assert grader._process is not None
    return grader._process.pid


def children(grader: GraderProcess) -> list[int]:
    (path,) = Path(f"/proc/{supervisor(grader)}/task").glob("*/children")
    return [int(pid) for pid in path.read_text().split()]


async def used_by_child(grader: GraderProcess, seconds: float) -> int:
    """Wait until the child has used so much more processor time; return it."""
    await until(lambda: len(children(grader)) == 1, what="there is a child")
    (pid,) = children(grader)
    before = tree_cpu_seconds([pid])
    await until(lambda: tree_cpu_seconds([pid]) >= before + seconds, what="the child is at work")
    return pid


async def kill_child(grader: GraderProcess, *, used_seconds: float = 0.0) -> None:
    """Kill the child, in the midst of its work where it must have used some; wait for the next."""
    pid = await used_by_child(grader, used_seconds)
    os.kill(pid, signal.SIGKILL)
    if used_seconds:
        await until(lambda: not exists(pid), what="the supervisor buries its child")
