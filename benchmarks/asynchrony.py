"""Wall time of equally many updates, synchronous and with sampling and learning overlapped.

    python -m benchmarks.asynchrony             # max_staleness 0, 1, 2; writes its result
    python -m benchmarks.asynchrony --quick     # 3 iterations, once each, writes nothing

Whole runs of `launch.train`, one after the other, forwards and backwards through the values of
`max_staleness`, so that a drift of the machine hits all alike. They differ in nothing else. The
model is new, so that every rollout is as long as its budget and all runs have the same work; its
rewards are zero, which saves the learner nothing.

Wall time is that of the iterations, without start-up: the sum of `overlap/wall_seconds`. A run that
overlaps must still sample its first iteration and learn its last one alone. The bound beside it is
what no schedule can beat: the synchronous run's time less the shorter of its sampling and learning.
On two cores sampling and learning share memory bandwidth, and the driver and the reward worker
need their part.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.targets import Target, conclude
from cispo.policy.load import (
    bundled_tokenizer,
    load_tokenizer,
    new_lightning_policy,
    save_policy,
)

RESULT = Path(__file__).parent / "results" / "asynchrony.json"
STALENESS = (0, 1, 2)
ITERATIONS, QUICK_ITERATIONS = 8, 3
REACHED = 0.85
"""Least share of the best possible speedup."""
TIMES = ("wall", "engine", "learner", "both")
TASKS = (
    "[{kind: reasoning_gym, name: leg_counting, size: 2000,"
    " options: {min_animals: 1, max_animals: 2, min_instances: 1, max_instances: 3}}]"
)
TOKENIZER = "bpe1024"
ARCHITECTURE = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "rotary_dim": 24,
    "layer_types": ["linear_attention", "full_attention"] * 2,
}
Row = dict[str, Any]


def write_policy(folder: Path) -> Path:
    """Write the new model that all runs begin with."""
    policy = new_lightning_policy(ARCHITECTURE, TOKENIZER, seed=0)
    tokenizer = load_tokenizer(str(bundled_tokenizer(TOKENIZER)))
    save_policy(policy, tokenizer, folder / "policy")
    return folder / "policy"


def train(folder: Path, policy: Path, *, max_staleness: int, iterations: int) -> Row:
    """Run `launch.train`, and add up the overlap of its lines."""
    run_dir = folder / f"staleness_{max_staleness}"
    overrides = {
        "experiment": "smoke",
        "policy.path": str(policy),
        "tasks.sources": TASKS,
        "objective.dynamic_sampling": "false",
        "reward.verifiers": "[logic]",
        "tasks_per_iteration": "16",
        "rollout.max_sequences": "32",  # sampling then takes about as long as learning
        "updates_per_iteration": "4",
        "iterations": str(iterations),
        "max_staleness": str(max_staleness),
        "evaluation.every": "-1",
        "tracking": "files_only",
        "name": f"staleness_{max_staleness}",
        "run_dir": str(run_dir),
        "overwrite": "true",
    }
    command = [sys.executable, "-m", "launch.train", *(f"{k}={v}" for k, v in overrides.items())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    learned = [line for line in lines if "learn/loss" in line]
    if len(learned) != iterations:
        raise RuntimeError(f"{run_dir}: {len(learned)} lines of {iterations} iterations")
    spent = {name: sum(line[f"overlap/{name}_seconds"] for line in lines) for name in TIMES}
    return {
        "max_staleness": max_staleness,
        **{f"{name}_seconds": seconds for name, seconds in spent.items()},
        "overlap_fraction": spent["both"] / min(spent["engine"], spent["learner"]),
        "staleness_max": max(line["staleness/max"] for line in learned),
        "sampled_tokens": sum(line["rollout/sampled_tokens"] for line in learned),
        "learned_tokens": sum(line["learn/tokens"] for line in learned),
    }


def show(row: Row) -> None:
    """Print one run."""
    print(
        f"max_staleness={row['max_staleness']}: {row['wall_seconds']:6.1f} s; engine "
        f"{row['engine_seconds']:.1f} s, learner {row['learner_seconds']:.1f} s, "
        f"both {row['both_seconds']:.1f} s; staleness up to {row['staleness_max']:.0f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="few iterations, once each; writes nothing"
    )
    quick = parser.parse_args().quick
    began = time.perf_counter()
    runs: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        policy = write_policy(Path(temporary))
        for order in [STALENESS] if quick else [STALENESS, STALENESS[::-1]]:
            for max_staleness in order:
                runs.append(
                    train(
                        Path(temporary),
                        policy,
                        max_staleness=max_staleness,
                        iterations=QUICK_ITERATIONS if quick else ITERATIONS,
                    )
                )
                show(runs[-1])
    for run in runs:
        if run["learned_tokens"] != runs[0]["learned_tokens"]:
            raise RuntimeError("the runs did not learn from equally many tokens")
        if run["staleness_max"] > run["max_staleness"]:
            raise RuntimeError(f"staleness {run['staleness_max']} of {run['max_staleness']}")
    wall = {
        bound: statistics.mean(r["wall_seconds"] for r in runs if r["max_staleness"] == bound)
        for bound in STALENESS
    }
    synchronous = [run for run in runs if run["max_staleness"] == 0]
    hidden = statistics.mean(
        min(run["engine_seconds"], run["learner_seconds"]) for run in synchronous
    )
    limit = wall[0] / (wall[0] - hidden)
    print(f"no schedule could be faster than {limit:.2f}x the synchronous one")
    for bound in STALENESS[1:]:
        print(f"max_staleness={bound} is {wall[0] / wall[bound]:.2f}x as fast")
    targets = [
        Target(
            name=f"share of the best possible speed, max_staleness={bound}",
            value=wall[0] / wall[bound] / limit,
            at_least=REACHED,
        )
        for bound in STALENESS[1:]
    ]
    conclude(
        None if quick else RESULT,
        targets,
        began=began,
        runs=runs,
        wall_seconds=wall,
        speedup={bound: wall[0] / seconds for bound, seconds in wall.items()},
        speedup_limit=limit,
    )


if __name__ == "__main__":
    main()
