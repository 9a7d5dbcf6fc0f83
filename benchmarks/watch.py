"""What the watch page needs for a run of 100,000 rollouts.

    python -m benchmarks.watch             # writes results/watch.json
    python -m benchmarks.watch --quick     # 5,000 rollouts, nothing written

A made-up run: 400 iterations of 250 rollouts with 300 tokens each, of which every file keeps 65,536
one by one, as a run does by default. Then, in a process of its own:

* memory: resident memory that the index of all rollouts adds;
* index: seconds of processor time to read all files once;
* answers: seconds of processor time of single requests, JSON included. A first search for a text
  looks through all files, at most a second of the clock a request; the page shows what is found so
  far meanwhile.
"""

import argparse
import gc
import multiprocessing
import os
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.targets import Target, conclude
from cispo.tracking.jsonl import JsonlTracker
from cispo.tracking.rollouts import RolloutFiles
from cispo.types import (
    Graded,
    Group,
    Message,
    PolicyVersion,
    Rollout,
    StopReason,
    Task,
)
from cispo.watch.answers import (
    curves_answer,
    dumps,
    groups_answer,
    rollout_answer,
    rollouts_answer,
    run_answer,
)
from cispo.watch.query import Query
from cispo.watch.run_view import RunView

RESULT = Path(__file__).parent / "results" / "watch.json"
FILES, QUICK_FILES = 400, 20
GROUPS, GROUP_SIZE, TOKENS = 25, 10, 300
MOST_MEGABYTES = 40.0
MOST_SECONDS = 0.5
WORDS = ("so", "let", "us", "add", "check whether it holds", "for both sides", "then", "numbers")


def rollout(task: Task, draws: random.Random, version: int) -> Rollout:
    """A rollout of `TOKENS` tokens."""
    text = " ".join(draws.choices(WORDS, k=TOKENS * 3 // 4))
    return Rollout(
        task_id=task.task_id,
        token_ids=[draws.randrange(1000) for _ in range(TOKENS + 60)],
        action_mask=[False] * 60 + [True] * TOKENS,
        behaviour_logprobs=[0.0] * 60 + [-draws.expovariate(2.0) for _ in range(TOKENS)],
        text=f"<think>{text}</think>{draws.randrange(1000)}",
        stop_reason=draws.choice((StopReason.END_OF_TURN, StopReason.LENGTH)),
        oldest_version=PolicyVersion(version),
        newest_version=PolicyVersion(version),
    )


def group(index: int, draws: random.Random, version: int) -> Group:
    """A group of a made-up task."""
    task = Task(
        task_id=f"task-{index}",
        messages=(Message(role="user", content=f"What is {index} plus {draws.random()}?"),),
        verifier="math",
        truth={"answer": str(index)},
        source=f"source-{index % 7}",
    )
    rewards = [float(draws.random() < 0.4) for _ in range(GROUP_SIZE)]
    return Group(
        index=index,
        task=task,
        rollouts=tuple(rollout(task, draws, version) for _ in range(GROUP_SIZE)),
        verdicts=tuple(Graded(reward=r, parts={"correct": r, "format": 1.0}) for r in rewards),
    )


def write_run(folder: Path, num_files: int) -> None:
    """Write a run of so many iterations; the texts of eight are used again and again."""
    draws = random.Random(0)
    tracker = JsonlTracker(folder / "metrics.jsonl")
    files = RolloutFiles(folder / "rollouts", every=1, recorded_tokens=65536)
    first = 0
    for step in range(1, num_files + 1):
        path = folder / "rollouts" / f"iteration_{step:06d}.jsonl.gz"
        if step <= 8:
            files.record(step, [group(first + i, draws, step) for i in range(GROUPS)])
            first += GROUPS
        else:
            twin = folder / "rollouts" / f"iteration_{1 + step % 8:06d}.jsonl.gz"
            path.write_bytes(twin.read_bytes())
        tracker.log(step, {"reward/mean": draws.random(), "time/iteration_seconds": 60.0})
    tracker.finish({})


def resident_bytes() -> int:
    """Resident memory of this process."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def processor_seconds(act: Callable[[], object]) -> float:
    """Processor time of a call."""
    began = time.process_time()
    act()
    return time.process_time() - began


def measure(folder: Path) -> dict[str, float]:
    """Index a run and ask about it."""
    view = RunView(folder)
    before = resident_bytes()

    def index_all() -> None:
        view.refresh()
        while view.index.num_waiting:
            view.refresh()

    index_seconds = processor_seconds(index_all)
    index_bytes = resident_bytes() - before
    files = view.index.files
    middle = files[len(files) // 2]

    def ask(act: Callable[[], object]) -> float:
        return processor_seconds(lambda: dumps(act()))

    def search(query: Query) -> Callable[[], object]:
        return lambda: rollouts_answer(view, query, start=0, limit=50)

    text = Query(text="check whether it holds for both sides so then")
    first_search = ask(search(text))
    rest_of_search, num_requests = 0.0, 1
    num_rollouts = sum(len(file.rows) for file in files)
    while view.finder.find(text, start=0, limit=1, seconds=0.0).num_searched < num_rollouts:
        rest_of_search += ask(search(text))
        num_requests += 1
    answers = {
        "headline": ask(lambda: run_answer(view)),
        "curves": ask(lambda: curves_answer(view)),
        "newest 50": ask(search(Query())),
        "filtered 50": ask(search(Query(source="source-3", verdict="wrong", stop="length"))),
        "longest 50": ask(search(Query(order="longest"))),
        "text again": ask(search(text)),
        "groups of an iteration": ask(lambda: groups_answer(middle, view.index.sources.texts)),
        "one rollout": ask(lambda: rollout_answer(view, middle, 117)),
    }
    return {
        "rollouts": num_rollouts,
        "disk_bytes": sum(file.stamp[0] for file in files),
        "index_bytes": index_bytes,
        "index_seconds": index_seconds,
        "first_search_seconds": first_search,
        "whole_search_seconds": first_search + rest_of_search,
        "search_requests": num_requests,
        **{f"{name.replace(' ', '_')}_seconds": seconds for name, seconds in answers.items()},
    }


def main() -> None:
    """Make a run, measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    began = time.perf_counter()
    fork = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        writer = fork.Process(
            target=write_run, args=(folder, QUICK_FILES if options.quick else FILES)
        )
        writer.start()
        writer.join()
        measured = measure(folder)
    for key, value in measured.items():
        print(f"{key:40} {value:14,.4f}")
    slowest = max(
        value
        for key, value in measured.items()
        if key.endswith("_seconds") and "index" not in key and "search" not in key
    )
    targets = [
        Target(
            name="memory of the index, MB",
            value=measured["index_bytes"] / 1e6,
            at_most=MOST_MEGABYTES,
        ),
        Target(name="slowest answer, s of a processor", value=slowest, at_most=MOST_SECONDS),
    ]
    conclude(None if options.quick else RESULT, targets, began=began, watch=measured)


if __name__ == "__main__":
    main()
