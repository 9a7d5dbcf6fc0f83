"""How far plans are from what finished runs measured: times, bytes published, memory.

    python -m benchmarks.plan_runs --smollm2 FOLDER     # makes runs/plan_*
    python -m benchmarks.plan_error runs/plan_*         # writes its result
    python -m benchmarks.plan_error --quick runs/mine   # writes nothing

Each run is planned on `--machine` (conf/machine) with its own config.yaml, and with what only its
metrics can tell: lengths of prompts and rollouts, and the share of dropped groups. The prediction
is then compared with medians over its iterations; the first one, which warms up, is left out.

- engine: seconds in which an engine stepped for the rollouts of an iteration. Where evaluations
  share a line, its share of the tokens is taken. Without that metric: seconds in which at least one
  task was sampled.
- learner, sync: seconds of the updates, and of the publish.
- iteration: waiting for rollouts, learning and publishing together, against the simulation.
- bottleneck: which of engine, learner and sync takes most.
- memory: of the learner's and the engine's process, where `benchmarks.plan_runs` made the run.

The error is predicted / measured - 1. Beside it stands the error of the same prediction after
scaling by the other runs' mean ratio (geometric), which is what is left once a machine is
calibrated: a part that is wrong by one constant has no error there. With one run there is none.

Memory is also compared with `benchmarks/results/learner_memory.json`, where it exists: the growth
of a process during its first update against the plan's parts without the weights, which are there
before. AdamW makes its moments after the first backward pass: the larger of both times counts.
"""

import argparse
import json
import math
from pathlib import Path
from statistics import median
from typing import Any

import yaml
from omegaconf import OmegaConf

from benchmarks.machine import describe
from cispo.config.plan import PlanConfig
from cispo.errors import CispoError
from cispo.plan.memory import learner_memory
from cispo.plan.reading import read_architecture
from launch.planning import make_plan
from launch.typed import to_typed

ROOT = Path(__file__).parents[1]
RESULT = Path(__file__).parent / "results" / "plan_error.json"
LEARNER_MEMORY = RESULT.with_name("learner_memory.json")
MEMORY = "memory.json"
PARTS = ("engine", "learner", "sync")
NINTH_DECILE = 1.2816
"""Of a standard normal variable."""

Line = dict[str, float]
Row = dict[str, Any]


def read_lines(run: Path) -> list[Line]:
    """The metrics of iterations, the first left out where there are others."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    iterations = [line for line in lines if "time/learn_seconds" in line]
    if not iterations:
        raise SystemExit(f"{run}: metrics.jsonl has no finished iteration")
    return iterations[1:] or iterations


def middle(lines: list[Line], key: str) -> float:
    """The median over lines that have the key."""
    return median(line[key] for line in lines if key in line)


def assumed(lines: list[Line], *, num_groups: int) -> Row:
    """What a plan has to assume, from the metrics of the run that it plans."""
    spreads = [
        math.log(line["length/p90_tokens"] / line["length/p50_tokens"]) / NINTH_DECILE
        for line in lines
        if line["length/p50_tokens"] > 0
    ]
    dropped = sum(sum(v for k, v in line.items() if k.startswith("drops/")) for line in lines)
    return {
        "prompt_tokens": max(1, round(middle(lines, "length/prompt_mean_tokens"))),
        "mean_tokens": middle(lines, "length/mean_tokens"),
        "spread": median(spreads),
        "dropped_fraction": dropped / (dropped + num_groups * len(lines)),
    }


def machine_fields(machine: str) -> Row:
    """A machine of conf/machine."""
    fields: Row = yaml.safe_load((ROOT / "conf" / "machine" / f"{machine}.yaml").read_text())
    return fields


def plan_config(run: Path, lines: list[Line], *, machine: str) -> PlanConfig:
    """The run's configuration with a machine and what was measured."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    described = machine_fields(machine)
    known = assumed(lines, num_groups=config["tasks_per_iteration"])
    both = {**config, "machine": described, "assume": known}
    return to_typed(OmegaConf.create(both), PlanConfig)


def measured(lines: list[Line]) -> dict[str, float]:
    """Seconds of an iteration by part."""
    return {
        "engine": median(engine_seconds(line) for line in lines),
        "learner": middle(lines, "time/learn_seconds"),
        "sync": middle(lines, "time/publish_seconds"),
        "iteration": median(
            line["time/sample_seconds"] + line["time/learn_seconds"] + line["time/publish_seconds"]
            for line in lines
        ),
    }


def engine_seconds(line: Line) -> float:
    """Seconds of stepping for the rollouts that were learned from or dropped."""
    if "time/engine_busy_seconds" not in line or not line.get("engine/sampled_tokens"):
        return line["time/rollout_busy_seconds"]
    share = min(1.0, line["rollout/sampled_tokens"] / line["engine/sampled_tokens"])
    return line["time/engine_busy_seconds"] * share


def compare_run(run: Path, *, machine: str) -> Row:
    """Predicted and measured numbers of one run."""
    lines = read_lines(run)
    cfg = plan_config(run, lines, machine=machine)
    plan = make_plan(cfg)
    predicted = {
        "engine": plan.seconds["engine"],
        "learner": plan.seconds["learner"],
        "sync": plan.seconds["sync"],
        "iteration": plan.simulation.steady_seconds,
    }
    row: Row = {
        "run": run.name,
        "iterations": len(lines),
        "assumed": {key: getattr(cfg.assume, key) for key in ("prompt_tokens", "mean_tokens",
                    "spread", "dropped_fraction")},
        "predicted_seconds": predicted,
        "measured_seconds": measured(lines),
    }  # fmt: skip
    row["bottleneck"] = {
        name: max(PARTS, key=lambda part: seconds[part])
        for name, seconds in (("predicted", predicted), ("measured", row["measured_seconds"]))
    }
    if (run / MEMORY).is_file():
        row["measured_memory_bytes"] = json.loads((run / MEMORY).read_text())
        row["predicted_memory_bytes"] = {
            name: memory.total + memory.host_total
            for name, memory in (("learner", plan.learner), ("engine", plan.engine))
        }
    if any("engine/sync_bytes" in line for line in lines):
        row["predicted_sync_bytes"] = plan.sync_bytes
        row["measured_sync_bytes"] = middle(lines, "engine/sync_bytes")
    return row


def add_errors(rows: list[Row]) -> None:
    """Errors as predicted, and after scaling by the mean ratio of the other runs."""
    for row in rows:
        row["error"], row["calibrated_error"] = {}, {}
        for part, predicted in row["predicted_seconds"].items():
            ratio = predicted / row["measured_seconds"][part]
            row["error"][part] = ratio - 1
            others = [
                math.log(o["predicted_seconds"][part] / o["measured_seconds"][part])
                for o in rows
                if o is not row
            ]
            if others:
                scale = math.exp(sum(others) / len(others))
                row["calibrated_error"][part] = ratio / scale - 1
        row["memory_error"] = memory_errors(row)


def memory_errors(row: Row) -> dict[str, float]:
    """Errors of memory by process; none where it was not measured."""
    return {
        name: predicted / row["measured_memory_bytes"][name] - 1
        for name, predicted in row.get("predicted_memory_bytes", {}).items()
    }


def memory_rows(activation_factor: float) -> list[Row]:
    """Predicted and measured growth of a learner's process during an update, by length."""
    if not LEARNER_MEMORY.is_file():
        return []
    report = json.loads(LEARNER_MEMORY.read_text())
    architecture = read_architecture(report["architecture"], where=LEARNER_MEMORY.name)
    rows = []
    for update in report["updates"]:
        memory = learner_memory(
            architecture,
            number_bytes=4,
            num_ranks=1,
            zero_stage=0,
            offload="none",
            row_tokens=update["tokens"],
            sequence_parallel=1,
            recompute_layers=update["recompute_layers"],
            logprob_chunk=1024,
            activation_factor=1.0 if update["recompute_layers"] else activation_factor,
        )
        moments, gradients = memory.parts["optimizer"], memory.parts["gradients"]
        backward = memory.total - memory.parts["weights"] - moments
        predicted = max(backward, moments + gradients)
        grown = update["peak_bytes"] - update["bytes_before"]
        rows.append(
            {
                "tokens": update["tokens"],
                "recompute_layers": update["recompute_layers"],
                "predicted_bytes": predicted,
                "measured_bytes": grown,
                "error": predicted / grown - 1,
            }
        )
    return rows


def show(rows: list[Row], memory: list[Row]) -> None:
    """Print all comparisons as a table."""
    for row in rows:
        known = row["assumed"]
        print(
            f"\n{row['run']}: {row['iterations']} iterations; {known['mean_tokens']:.0f} tokens "
            f"behind {known['prompt_tokens']}, {known['dropped_fraction']:.0%} of groups dropped"
        )
        print(f"  {'part':10} {'predicted':>10} {'measured':>10} {'error':>8}  calibrated")
        for part, predicted in row["predicted_seconds"].items():
            calibrated = row["calibrated_error"].get(part)
            print(
                f"  {part:10} {predicted:>8.2f} s {row['measured_seconds'][part]:>8.2f} s "
                f"{row['error'][part]:>+8.0%}  "
                + ("" if calibrated is None else f"{calibrated:>+10.0%}")
            )
        words = row["bottleneck"]
        print(f"  bottleneck {words['predicted']} predicted, {words['measured']} measured")
        for process, error in row["memory_error"].items():
            sizes = row["predicted_memory_bytes"][process], row["measured_memory_bytes"][process]
            print(
                f"  {process + ' memory':15} {sizes[0] / 2**30:.2f} GiB predicted, "
                f"{sizes[1] / 2**30:.2f} measured, {error:+.0%}"
            )
        if "measured_sync_bytes" in row:
            print(
                f"  published  {row['predicted_sync_bytes']:,} bytes predicted, "
                f"{row['measured_sync_bytes']:,.0f} measured"
            )
    for one in memory:
        print(
            f"learner, {one['tokens']:>6} tokens, recompute_layers={one['recompute_layers']!s:5}: "
            f"{one['predicted_bytes'] / 2**30:.2f} GiB predicted, "
            f"{one['measured_bytes'] / 2**30:.2f} measured, {one['error']:+.0%}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, help="folders of finished runs")
    parser.add_argument("--machine", default="cpu2", help="a name in conf/machine")
    parser.add_argument("--quick", action="store_true", help="write nothing")
    options = parser.parse_args()
    try:
        rows = [compare_run(run, machine=options.machine) for run in options.runs]
    except CispoError as error:
        raise SystemExit(f"a run cannot be planned: {error}") from error
    add_errors(rows)
    memory = memory_rows(machine_fields(options.machine).get("activation_factor", 1.0))
    show(rows, memory)
    if not options.quick:
        report = {
            "machine": describe(),
            "planned_for": options.machine,
            "runs": rows,
            "memory": memory,
        }
        RESULT.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
