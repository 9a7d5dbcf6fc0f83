"""Are 10,000 verdicts right while reward workers, graders and programs are killed at random?

    python -m benchmarks.verdicts_under_fire [NUMBER]    # writes results/verdicts_under_fire.json

Every answer's verdict is known beforehand. A thread kills one of the reward side's processes every
second. Counted: verdicts that are missing, doubled, or wrong, among them zeros that are nobody's
fault; those that say `Ungraded`, as they should when a grader dies twice under one answer; and the
memory of the reward workers at the start and at the end.
"""

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

from cispo.config import RewardConfig, SandboxConfig
from cispo.types import Graded, Message, PolicyVersion, Rollout, StopReason, Task, Verdict
from rewards.pool import RewardPool

RESULT = Path(__file__).parent / "results" / "verdicts_under_fire.json"
TARGETS = (b"ray::RewardWorker", b"rewards.supervisor", b"driver.py")
KILLS_EVERY_SECONDS = 1.0
CODE_EVERY = 10  # one verdict in so many runs a program
PROGRAM = "```python\na, b = map(int, input().split())\nprint(a + b + {wrong})\n```"


def task_and_rollout(index: int) -> tuple[Task, Rollout]:
    """Make an answer that is wrong where the index is a multiple of three."""
    wrong = int(index % 3 == 0)
    is_code = index % CODE_EVERY == 0
    truth: dict[str, object] = {"answer": str(index)}
    text = rf"<think>.</think>\boxed{{{index + wrong}}}"
    if is_code:
        truth = {"tests": [{"stdin": f"{index} 1\n", "stdout": f"{index + 1}\n"}]}
        text = "<think>.</think>" + PROGRAM.format(wrong=wrong)
    name = f"t{index}"
    task = Task(
        task_id=name,
        messages=(Message(role="user", content="?"),),
        verifier="code" if is_code else "math",
        truth=truth,
    )
    rollout = Rollout(
        task_id=name,
        token_ids=[0, 1],
        action_mask=[False, True],
        behaviour_logprobs=[0.0, 0.0],
        text=text,
        stop_reason=StopReason.END_OF_TURN,
        oldest_version=PolicyVersion(1),
        newest_version=PolicyVersion(1),
    )
    return task, rollout


def processes() -> dict[bytes, list[int]]:
    """Return the reward side's processes, by what they are; only descendants of this one."""
    parents, commands = {}, {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            commands[int(entry.name)] = (entry / "cmdline").read_bytes()
            status = (entry / "stat").read_text()
        except OSError:
            continue  # it ended meanwhile
        parents[int(entry.name)] = int(status.rpartition(")")[2].split()[1])
    found: dict[bytes, list[int]] = {target: [] for target in TARGETS}
    for pid, command in commands.items():
        for target in TARGETS:
            if target in command and is_descendant(pid, parents):
                found[target].append(pid)
    return found


def is_descendant(pid: int, parents: dict[int, int]) -> bool:
    """Whether this process started another one, through any number of others."""
    while pid in parents:
        pid = parents[pid]
        if pid == os.getpid():
            return True
    return False


def shoot(stop: threading.Event, kills: Counter[str]) -> None:
    """Kill one process at a time until told to stop; workers seldom, they take long to start."""
    chooser = random.Random(0)
    while not stop.wait(KILLS_EVERY_SECONDS):
        found = processes()
        target = chooser.choices(TARGETS, weights=(1, 6, 13))[0]
        if not found[target]:
            continue
        try:
            os.kill(chooser.choice(found[target]), signal.SIGKILL)
            kills[target.decode()] += 1
        except ProcessLookupError:
            pass  # it ended by itself


def memory_mib() -> float:
    """Resident memory of all reward workers and their graders."""
    total = 0
    for target in TARGETS[:2]:
        for pid in processes()[target]:
            try:
                pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            except OSError:
                continue
            total += pages * os.sysconf("SC_PAGE_SIZE")
    return round(total / 2**20, 1)


async def run(number: int) -> dict[str, object]:
    """Grade everything under fire."""
    pool = await RewardPool.start(
        RewardConfig(num_workers=2, deadline_seconds=30.0, max_attempts=10),
        SandboxConfig(),
        max_new_tokens=100,
        startup_seconds=180.0,
    )
    outcome: Counter[str] = Counter()
    answered: Counter[int] = Counter()
    slots = asyncio.Semaphore(64)

    async def grade(index: int) -> None:
        async with slots:
            verdict: Verdict = await pool.grade(*task_and_rollout(index))
        answered[index] += 1
        expected = float(index % 3 != 0)
        if not isinstance(verdict, Graded):
            outcome["ungraded"] += 1
        elif verdict.reward != expected:
            outcome["undeserved_zero" if verdict.reward == 0.0 else "undeserved_reward"] += 1
        else:
            outcome["right"] += 1

    kills: Counter[str] = Counter()
    stop = threading.Event()
    await asyncio.gather(*(grade(index) for index in range(200)))  # warm
    answered.clear()
    outcome.clear()
    before = memory_mib()
    shooting = threading.Thread(target=shoot, args=(stop, kills))
    start = time.perf_counter()
    shooting.start()
    await asyncio.gather(*(grade(index) for index in range(number)))
    seconds = time.perf_counter() - start
    stop.set()
    shooting.join()
    await asyncio.gather(
        *(grade(number + index) for index in range(200))
    )  # what was killed is back
    after = memory_mib()
    pool.close()
    return {
        "verdicts": number + 200,
        "missing": number + 200 - len(answered),
        "doubled": sum(count > 1 for count in answered.values()),
        **{
            key: outcome[key]
            for key in ("right", "ungraded", "undeserved_zero", "undeserved_reward")
        },
        "kills": dict(kills),
        "verdicts_per_second": round(number / seconds, 1),
        "memory_before_mib": before,
        "memory_after_mib": after,
    }


def main() -> None:
    """Measure, print, store; fail where a verdict was lost or wrong."""
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    ray.init(num_cpus=4, include_dashboard=False, object_store_memory=2**28, log_to_driver=False)
    result = asyncio.run(run(number))
    ray.shutdown()
    print(json.dumps(result, indent=1))
    if number >= 10_000:
        RESULT.write_text(json.dumps(result, indent=1) + "\n")
    if any(result[key] for key in ("missing", "doubled", "undeserved_zero", "undeserved_reward")):
        sys.exit("some verdicts are missing or wrong")


if __name__ == "__main__":
    main()
