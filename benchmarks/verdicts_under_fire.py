"""Are 10,000 verdicts right while reward workers, graders, jails and programs are killed at random?

    python -m benchmarks.verdicts_under_fire            # writes results/verdicts_under_fire.json
    python -m benchmarks.verdicts_under_fire 1000       # fewer, stores nothing

Every answer's verdict is known beforehand. A thread kills one of the reward side's processes every
second. Counted: verdicts that are missing, doubled, or wrong, among them zeros that are nobody's
fault; those that say `Ungraded`, as they should when a grader dies too often under one answer. The
memory of this process and of the workers with their graders is read three times, when the fire has
ceased and all that was killed is back: before, after one half, and at the end.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import ray

from benchmarks.answers import boxed, program
from benchmarks.machine import describe
from benchmarks.processes import descendants, resident_bytes
from benchmarks.targets import Target, as_rows, show_targets
from cispo.config import RewardConfig, SandboxConfig
from cispo.types import Graded, Rollout, Task, Verdict
from rewards.pool import RewardPool

RESULT = Path(__file__).parent / "results" / "verdicts_under_fire.json"
NUMBER = 10_000
CALM = 400
KILLS_EVERY_SECONDS = 1.0
CODE_EVERY = 10  # one verdict in so many runs a program
PAUSE = 0.2  # seconds of a program, so that it can be hit
REFERENCES = 500  # so that what is kept of references is there before the first reading
WORKER, GRADER, JAIL, PROGRAM = "reward worker", "grader", "jail", "program"
WEIGHTS = {WORKER: 1, GRADER: 6, JAIL: 6, PROGRAM: 7}  # workers seldom, they take long to start


def task_and_rollout(index: int) -> tuple[Task, Rollout]:
    """Make an answer that is wrong where the index is a multiple of three."""
    wrong = int(index % 3 == 0)
    if index % CODE_EVERY == 0:
        return program(f"t{index}", off_by=wrong, num_tests=1, first=index, pause=PAUSE)
    reference = index % REFERENCES
    return boxed(f"t{index}", str(reference + wrong), str(reference))


def processes() -> dict[str, list[int]]:
    """Return the reward side's processes, by what they are."""
    found: dict[str, list[int]] = {kind: [] for kind in WEIGHTS}
    for pid, command in descendants():
        if b"ray::RewardWorker" in command:
            found[WORKER].append(pid)
        elif b"rewards.supervisor" in command:
            found[GRADER].append(pid)
        elif b"sandboxes.inside.zygote" in command:
            if b"bwrap" in command:
                found[JAIL].append(pid)
            elif name_of(pid) == "cispo-program":
                found[PROGRAM].append(pid)
    return found


def name_of(pid: int) -> str:
    """Return the name that a process has given itself."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def shoot(stop: threading.Event, kills: Counter[str]) -> None:
    """Kill one process at a time until told to stop."""
    chooser = random.Random(0)
    while not stop.wait(KILLS_EVERY_SECONDS):
        found = {kind: pids for kind, pids in processes().items() if pids}
        if not found:
            continue
        (kind,) = chooser.choices(list(found), weights=[WEIGHTS[kind] for kind in found])
        try:
            os.kill(chooser.choice(found[kind]), signal.SIGKILL)
            kills[kind] += 1
        except ProcessLookupError:
            pass  # it ended by itself


def memory_mib() -> float:
    """Resident memory of this process and of all reward workers and their graders."""
    found = processes()
    pids = [os.getpid(), *found[WORKER], *found[GRADER]]
    return round(sum(map(resident_bytes, pids)) / 2**20, 1)


class Tally:
    """What became of the verdicts."""

    def __init__(self, pool: RewardPool) -> None:
        """Count for a pool."""
        self._pool = pool
        self._slots = asyncio.Semaphore(64)
        self.outcome: Counter[str] = Counter()
        self.causes: Counter[str] = Counter()
        self.answered: Counter[int] = Counter()

    async def grade(self, indices: range) -> None:
        """Grade some answers, 64 at a time."""
        await asyncio.gather(*(self._grade(index) for index in indices))

    async def _grade(self, index: int) -> None:
        async with self._slots:
            verdict: Verdict = await self._pool.grade(*task_and_rollout(index))
        self.answered[index] += 1
        if not isinstance(verdict, Graded):
            self.outcome["ungraded"] += 1
            self.causes[verdict.cause] += 1
        elif verdict.reward != float(index % 3 != 0):
            self.outcome["undeserved_zero" if not verdict.reward else "undeserved_reward"] += 1
        else:
            self.outcome["right"] += 1


async def under_fire(tally: Tally, indices: range, kills: Counter[str]) -> float:
    """Grade under fire, then in calm until what was killed is back; return the seconds of fire."""
    stop = threading.Event()
    shooting = threading.Thread(target=shoot, args=(stop, kills))
    began = time.perf_counter()
    shooting.start()
    try:
        await tally.grade(indices[:-CALM])
    finally:
        stop.set()
        shooting.join()
    seconds = time.perf_counter() - began
    await tally.grade(indices[-CALM:])
    return seconds


async def run(number: int) -> dict[str, object]:
    """Grade everything."""
    pool = await RewardPool.start(
        RewardConfig(
            num_workers=2, verifiers=["math", "code"], deadline_seconds=30.0, max_attempts=10
        ),
        SandboxConfig(),
        max_new_tokens=100,
        startup_seconds=180.0,
    )
    await Tally(pool).grade(range(2 * REFERENCES))  # warm
    tally = Tally(pool)
    kills: Counter[str] = Counter()
    memory = [memory_mib()]
    half = number // 2
    seconds = 0.0
    for indices in (range(half), range(half, number)):
        seconds += await under_fire(tally, indices, kills)
        memory.append(memory_mib())
    num_replaced = pool.num_replaced
    pool.close()
    outcomes = ("right", "ungraded", "undeserved_zero", "undeserved_reward")
    return {
        "verdicts": number,
        "missing": number - len(tally.answered),
        "doubled": sum(count > 1 for count in tally.answered.values()),
        **{key: tally.outcome[key] for key in outcomes},
        "ungraded_causes": dict(tally.causes),
        "kills": dict(kills),
        "replaced_workers": num_replaced,
        "verdicts_per_second_under_fire": round((number - 2 * CALM) / seconds, 1),
        "memory_mib": dict(zip(("start", "middle", "end"), memory, strict=True)),
        "memory_slope_mib_per_1000": round(1e3 * (memory[2] - memory[1]) / (number - half), 2),
    }


def judge(result: dict[str, object]) -> list[Target]:
    """Compare with what is asked for."""
    memory = result["memory_mib"]
    assert isinstance(memory, dict)
    never = ("missing", "doubled", "undeserved_zero", "undeserved_reward")
    return [
        *(
            Target(name=f"verdicts {key}", value=float(str(result[key])), at_most=0)
            for key in never
        ),
        Target(
            name="memory at the end over the start",
            value=memory["end"] / memory["start"],
            at_most=1.1,
        ),
    ]


def main() -> None:
    """Measure, print, store; fail where a verdict was lost or wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("number", nargs="?", type=int, default=NUMBER)
    number = parser.parse_args().number
    ray.init(num_cpus=4, include_dashboard=False, object_store_memory=2**28, log_to_driver=False)
    result = asyncio.run(run(number))
    ray.shutdown()
    print(json.dumps(result, indent=1))
    targets = judge(result)
    show_targets(targets)
    if number >= NUMBER:
        stored = {"machine": describe(), **result, "targets": as_rows(targets)}
        RESULT.write_text(json.dumps(stored, indent=1) + "\n")
    if not all(target.is_met for target in targets):
        sys.exit("a target is missed")


if __name__ == "__main__":
    main()
