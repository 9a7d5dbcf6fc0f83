"""How fast are verdicts? Mathematics beside math-verify in process, and tests of programs.

    python -m benchmarks.verdicts            # about two minutes; writes results/verdicts.json
    python -m benchmarks.verdicts --quick    # one round, stores nothing

Ours go all the way that a training run's go: through the pool to a Ray worker, from there to a
locked-down process that a hostile answer can neither stop nor reach out of. Beside it, as many
processes parse and compare the same pairs with math-verify and do nothing else. Answers are of our
own making (numbers, fractions, roots, intervals, polynomials), in groups of rollouts of one task,
half of them wrong; both sides must agree on each. Rounds alternate, and each has pairs of its own.
"""

import argparse
import asyncio
import json
import logging
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import ray
from math_verify import parse, verify

from benchmarks.answers import boxed, program
from benchmarks.machine import describe
from benchmarks.processes import cpu_seconds
from benchmarks.targets import Target, as_rows, show_targets
from cispo.config import RewardConfig, SandboxConfig
from cispo.types import Graded
from rewards.pool import RewardPool

RESULT = Path(__file__).parent / "results" / "verdicts.json"
PROCESSES = 2
ROUNDS = 5
TASKS_A_ROUND = 100
GROUP_SIZE = 8
PROGRAMS = 60
TESTS = 8

Pair = tuple[str, str]
"""An answer and its reference."""


def pairs_of(round_: int) -> list[Pair]:
    """Return the pairs of a round, group by group; every second member of a group is wrong."""
    pairs = []
    for index in range(TASKS_A_ROUND):
        n = 2 + round_ * TASKS_A_ROUND + index
        for member in range(GROUP_SIZE):
            wrong = member % 2 * (1 + member)
            kinds = (
                (str(n + wrong), str(n)),
                (rf"\frac{{{n + wrong}}}{{{n + 7}}}", f"{n}/{n + 7}"),
                (rf"{n + wrong}\sqrt{{2}}", rf"\sqrt{{{2 * n * n}}}"),
                (rf"({n},{n + 3 + wrong}]", rf"({n},{n + 3}]"),
                (rf"{n}x^2+{2 * n}x+{n + wrong}", rf"{n}(x+1)^2"),
            )
            pairs.append(kinds[index % len(kinds)])
    return pairs


def math_verify_alone(pairs: list[Pair]) -> list[bool]:
    """Judge pairs as a reward function without any protection does."""
    return [
        verify(
            parse(rf"\boxed{{{reference}}}", parsing_timeout=None),
            parse(rf"\boxed{{{answer}}}", parsing_timeout=None),
            timeout_seconds=None,
        )
        for answer, reference in pairs
    ]


def in_processes(processes: ProcessPoolExecutor, pairs: list[Pair]) -> list[bool]:
    """Share pairs out evenly, in chunks so that no process waits for another."""
    chunks = [pairs[start : start + 20] for start in range(0, len(pairs), 20)]
    return [verdict for chunk in processes.map(math_verify_alone, chunks) for verdict in chunk]


async def ours(pool: RewardPool, pairs: list[Pair]) -> list[bool]:
    """Judge pairs as a training run does."""
    made = [boxed(f"task-{number}", *pair) for number, pair in enumerate(pairs)]
    verdicts = await asyncio.gather(*(pool.grade(task, rollout) for task, rollout in made))
    assert all(isinstance(verdict, Graded) for verdict in verdicts), verdicts
    return [verdict.parts["correct"] == 1.0 for verdict in verdicts]  # type: ignore[union-attr]


async def measure_math(pool: RewardPool, *, rounds: int) -> dict[str, float]:
    """Alternate rounds of math-verify alone and of ours."""
    rates: dict[str, list[float]] = {"alone": [], "ours": []}
    costs: dict[str, list[float]] = {"alone": [], "ours": []}
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as processes:
        warm = pairs_of(rounds)
        in_processes(processes, warm)
        await ours(pool, warm)
        for round_ in range(rounds):
            pairs = pairs_of(round_)
            for name in ("alone", "ours"):
                used, began = cpu_seconds(), time.perf_counter()
                if name == "alone":
                    expected = in_processes(processes, pairs)
                else:
                    assert await ours(pool, pairs) == expected
                rates[name].append(len(pairs) / (time.perf_counter() - began))
                costs[name].append(1e3 * (cpu_seconds() - used) / len(pairs))
    return {
        "processes": PROCESSES,
        "verdicts_per_second": round(statistics.median(rates["ours"]), 1),
        "math_verify_alone_per_second": round(statistics.median(rates["alone"]), 1),
        "ratio": _median_ratio(rates["ours"], rates["alone"]),
        "cpu_ms": round(statistics.median(costs["ours"]), 2),
        "math_verify_alone_cpu_ms": round(statistics.median(costs["alone"]), 2),
        "cpu_ratio": _median_ratio(costs["alone"], costs["ours"]),
    }


def _median_ratio(ours: list[float], theirs: list[float]) -> float:
    return round(statistics.median(o / t for o, t in zip(ours, theirs, strict=True)), 3)


async def measure_code(pool: RewardPool) -> dict[str, float]:
    """Grade programs of several tests each."""
    made = [program(f"task-{n}", off_by=n % 2, num_tests=TESTS, first=n) for n in range(PROGRAMS)]
    await asyncio.gather(*(pool.grade(*pair) for pair in made[:8]))  # servers are warm
    began = time.perf_counter()
    verdicts = await asyncio.gather(*(pool.grade(*pair) for pair in made))
    seconds = time.perf_counter() - began
    right = [isinstance(v, Graded) and v.parts["correct"] for v in verdicts]
    assert right == [float(n % 2 == 0) for n in range(PROGRAMS)], verdicts
    return {
        "programs_per_second": round(PROGRAMS / seconds, 1),
        "tests_per_second": round(PROGRAMS * TESTS / seconds, 1),
        "tests_per_program": TESTS,
    }


async def run(*, rounds: int) -> dict[str, dict]:
    """Measure both behind one pool."""
    pool = await RewardPool.start(
        RewardConfig(num_workers=PROCESSES, verifiers=["math", "code"]),
        SandboxConfig(),
        max_new_tokens=100,
        startup_seconds=180.0,
    )
    math = await measure_math(pool, rounds=rounds)
    code = await measure_code(pool)
    pool.close()
    return {"machine": describe(), "math": math, "code": code}


def main() -> None:
    """Measure, print, store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round, stores nothing")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    ray.init(
        num_cpus=PROCESSES + 2,
        include_dashboard=False,
        object_store_memory=2**28,
        log_to_driver=False,
    )
    result = asyncio.run(run(rounds=1 if arguments.quick else ROUNDS))
    ray.shutdown()
    print(json.dumps({name: result[name] for name in ("math", "code")}, indent=1))
    targets = [
        Target(
            name="mathematics: our rate over math-verify's alone",
            value=result["math"]["ratio"],
            at_least=0.9,
        )
    ]
    show_targets(targets)
    if not arguments.quick:
        RESULT.write_text(json.dumps(result | {"targets": as_rows(targets)}, indent=1) + "\n")


if __name__ == "__main__":
    main()
