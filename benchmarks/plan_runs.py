"""Small runs that differ, with the peak memory of their processes: what plans are compared with.

    python -m benchmarks.plan_runs --smollm2 FOLDER    # writes runs/plan_*, about 10 minutes
    python -m benchmarks.plan_error runs/plan_*        # says how far off their plans are

- plan_smoke: the smoke run, by which the constants of conf/machine/cpu2.yaml were set.
- plan_wider: a new model of eight times its size, rollouts of 256 tokens, sampled one iteration
  ahead. Rewards are zero, which saves the learner nothing.
- plan_smollm2: SmolLM2-135M-Instruct by transformers, where --smollm2 names its folder.

A run's memory.json holds the most that its learner's and its engine's process had resident, as the
kernel keeps it (VmHWM), read while they live.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks.processes import descendants, peak_bytes
from cispo.policy.load import (
    bundled_tokenizer,
    load_tokenizer,
    new_lightning_policy,
    save_policy,
)

PROCESSES = {"learner": b"ray::LearnerActor", "engine": b"ray::RolloutActor"}
POLL_SECONDS = 0.5
COMMON = {
    "evaluation.every": "-1",
    "tracking": "files_only",
    "overwrite": "true",
    "cluster.startup_seconds": "3600",  # a busy machine starts Ray's workers slowly
}
SUMS = (
    "[{kind: reasoning_gym, name: leg_counting, size: 2000,"
    " options: {min_animals: 1, max_animals: 2, min_instances: 1, max_instances: 3}}]"
)
TOKENIZER = "bpe1024"
WIDER = {
    "hidden_size": 384,
    "intermediate_size": 1024,
    "num_hidden_layers": 8,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "rotary_dim": 32,
    "layer_types": ["linear_attention"] * 7 + ["full_attention"],
}
RUNS: Mapping[str, Mapping[str, str]] = {
    "plan_smoke": {"experiment": "smoke", "iterations": "6"},
    "plan_wider": {
        "experiment": "smoke",
        "tasks.sources": SUMS,
        "objective.dynamic_sampling": "false",
        "reward.verifiers": "[logic]",
        "rollout.sampling.max_new_tokens": "256",
        "rollout.max_sequences": "32",
        "tasks_per_iteration": "8",
        "updates_per_iteration": "2",
        "max_staleness": "1",
        "iterations": "4",
    },
    "plan_smollm2": {"experiment": "smollm2_arithmetic", "iterations": "3"},
}


def run(name: str, folder: Path, overrides: Mapping[str, str]) -> None:
    """Train, and write the peak memory of the processes beside the run's metrics.

    Raises:
        RuntimeError: It failed, or a process was never seen.
    """
    run_dir = folder / name
    chosen = {**COMMON, **overrides, "name": name, "run_dir": str(run_dir)}
    command = [sys.executable, "-m", "launch.train", *(f"{k}={v}" for k, v in chosen.items())]
    began = time.perf_counter()
    peaks: dict[str, int] = {}
    with subprocess.Popen(command) as training:
        while training.poll() is None:
            for pid, title in descendants():
                for process, beginning in PROCESSES.items():
                    if title.startswith(beginning):
                        peaks[process] = max(peaks.get(process, 0), peak_bytes(pid))
            time.sleep(POLL_SECONDS)
    if training.returncode or set(peaks) != set(PROCESSES):
        raise RuntimeError(f"{' '.join(command)}: exit {training.returncode}, processes {peaks}")
    (run_dir / "memory.json").write_text(json.dumps(peaks) + "\n")
    shown = ", ".join(f"{process} {size / 2**30:.2f} GiB" for process, size in peaks.items())
    print(f"{name}: {time.perf_counter() - began:.0f} s; {shown}", flush=True)


def write_wider(folder: Path) -> Path:
    """Write a new model; it is made here so that each run begins with the same."""
    policy = new_lightning_policy(WIDER, TOKENIZER, seed=0)
    save_policy(policy, load_tokenizer(str(bundled_tokenizer(TOKENIZER))), folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smollm2", type=Path, help="its folder; without one it is left out")
    parser.add_argument("--folder", type=Path, default=Path("runs"), help="where runs go")
    parser.add_argument("--only", choices=sorted(RUNS), help="one of them")
    parser.add_argument("overrides", nargs="*", help="of launch.train, for all; KEY=VALUE")
    options = parser.parse_args()
    for name, overrides in RUNS.items():
        if options.only not in (None, name):
            continue
        further = (override.partition("=") for override in options.overrides)
        changes = {**overrides, **{key: value for key, _, value in further}}
        if name == "plan_wider":
            changes["policy.path"] = str(write_wider(options.folder / "wider_policy"))
        if name == "plan_smollm2":
            changes["policy.path"] = str(options.smollm2)
        if name != "plan_smollm2" or options.smollm2 is not None:
            run(name, options.folder, changes)


if __name__ == "__main__":
    main()
