"""How fast are verdicts? Mathematics beside math-verify in process, and tests of programs.

    python -m benchmarks.verdicts    # about a minute; writes results/verdicts.json

The mathematical answers are of our own making: numbers, fractions, roots, intervals, polynomials,
half of them wrong. Both sides parse the answer and compare it; ours also crosses into a locked-down
process that a hostile answer can neither stop nor reach out of. Rounds alternate.
"""

import asyncio
import json
import logging
import platform
import statistics
import time
from pathlib import Path

from math_verify import parse, verify

from rewards.code import CodeGrader
from rewards.grade import math_judge
from rewards.grader_process import GraderProcess
from sandboxes.base import Limits
from sandboxes.bubblewrap import BubblewrapSandbox

RESULT = Path(__file__).parent / "results" / "verdicts.json"
ROUNDS = 5
PROGRAMS = 40
TESTS = 8
PROGRAM = "```python\na, b = map(int, input().split())\nprint(a + b)\n```"
LIMITS = Limits(
    cpu_seconds=5.0, wall_seconds=60.0, memory_bytes=2**29, max_processes=16, output_bytes=2**20
)


def answers() -> list[tuple[str, str]]:
    """Return pairs of a boxed answer and its reference, every second one wrong."""
    pairs = []
    for n in range(2, 42):
        wrong = n % 2
        pairs += [
            (str(n + wrong), str(n)),
            (rf"\frac{{{n + wrong}}}{{{n + 7}}}", f"{n}/{n + 7}"),
            (rf"{n}\sqrt{{2}}", rf"\sqrt{{{2 * n * n + wrong}}}"),
            (rf"({n},{n + 3}]", rf"({n},{n + 3 + wrong}]"),
            (rf"{n}x^2+{2 * n}x+{n}", rf"{n}(x+1)^2+{wrong}"),
        ]
    return pairs


def in_process(pairs: list[tuple[str, str]]) -> float:
    """Return the seconds that math-verify needs for all pairs."""
    start = time.perf_counter()
    for answer, reference in pairs:
        gold = parse(rf"\boxed{{{reference}}}", parsing_timeout=None)
        verify(gold, parse(rf"\boxed{{{answer}}}", parsing_timeout=None), timeout_seconds=None)
    return time.perf_counter() - start


async def measure_math() -> dict[str, float]:
    """Alternate rounds of math-verify in process and of ours."""
    pairs = answers()
    process = GraderProcess(["math"], deadline_seconds=30.0)
    await process.start()
    judge = math_judge(process)
    theirs, ours = [], []
    in_process(pairs)
    for _ in range(ROUNDS):
        theirs.append(in_process(pairs))
        start = time.perf_counter()
        await asyncio.gather(
            *(judge(rf"<think>.</think>\boxed{{{a}}}", {"answer": r}) for a, r in pairs)
        )
        ours.append(time.perf_counter() - start)
    await process.close()
    return {
        "verdicts_per_second": round(len(pairs) / statistics.median(ours), 1),
        "math_verify_in_process_per_second": round(len(pairs) / statistics.median(theirs), 1),
        "ratio": round(statistics.median(t / o for t, o in zip(theirs, ours, strict=True)), 2),
    }


async def measure_code() -> dict[str, float]:
    """Grade programs of several tests each, two at a time."""
    grader = CodeGrader(BubblewrapSandbox(), LIMITS, max_concurrent=2)
    tests = [{"stdin": f"{i} 1\n", "stdout": f"{i + 1}\n"} for i in range(TESTS)]
    source = PROGRAM.removeprefix("```python\n").removesuffix("\n```")
    await grader.grade(source, {"tests": tests})
    start = time.perf_counter()
    verdicts = await asyncio.gather(
        *(grader.grade(source, {"tests": tests}) for _ in range(PROGRAMS))
    )
    seconds = time.perf_counter() - start
    assert all(verdict == {"correct": 1.0, "passed_fraction": 1.0} for verdict in verdicts)
    return {
        "programs_per_second": round(PROGRAMS / seconds, 1),
        "tests_per_second": round(PROGRAMS * TESTS / seconds, 1),
        "tests_per_program": TESTS,
    }


def main() -> None:
    """Measure, print, store."""
    logging.disable(logging.WARNING)
    result = {
        "machine": platform.processor() or platform.machine(),
        "math": asyncio.run(measure_math()),
        "code": asyncio.run(measure_code()),
    }
    print(json.dumps(result, indent=1))
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
