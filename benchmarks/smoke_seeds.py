"""Does the smoke run learn on every seed? Held-out avg@4 before and after the RL phase.

    python benchmarks/smoke_seeds.py    # seeds 0, 1, 2; writes results/smoke_seeds.json

Each seed changes the initial weights, the order of tasks, the held-out draw and all sampling.
"""

import json
import subprocess
import sys
from pathlib import Path

SEEDS = (0, 1, 2)
RESULT = Path(__file__).parent / "results" / "smoke_seeds.json"
KEPT = (
    "heldout_before",
    "heldout_after",
    "heldout_before_by_source",
    "heldout_after_by_source",
    "iterations",
    "staleness_max",
    "invalid_fraction",
    "mismatch_max_nats",
)


def run(module: str, *overrides: str) -> None:
    subprocess.run([sys.executable, "-m", module, *overrides], check=True)


def main() -> None:
    results = []
    for seed in SEEDS:
        run("launch.sft", "experiment=smoke_cold_start", f"seed={seed}", f"name=cold_start_{seed}")
    for seed in SEEDS:
        policy = f"policy.path=runs/cold_start_{seed}/policy"
        run("launch.train", "experiment=smoke", f"seed={seed}", f"name=seed_{seed}", policy)
        summary = json.loads(Path(f"runs/seed_{seed}/summary.json").read_text())
        gain = 100 * (summary["heldout_after"] - summary["heldout_before"])
        kept = {key: summary[key] for key in KEPT}
        results.append({"seed": seed, "gain_points": round(gain, 1), **kept})
        print(f"seed {seed}: held-out avg@4 rises by {gain:.1f} points")
        RESULT.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
