"""What the curves come to: speed, collapses, and how the objectives differ, over seeds."""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

from benchmarks.objectives.cell import Result

Setting: TypeAlias = tuple[str, str, float]
"""Task, objective, learning rate."""

LEVEL = 0.8
EARLY = 5
_COLLAPSED = 0.5
_STUDENT = (12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""97.5% quantiles of Student's t for 1 to 9 degrees of freedom."""


def accuracy(result: Result) -> list[float]:
    """Share of right answers before each rollout batch is learned from, and in the end."""
    return [float(value) for value in result["curves"]["accuracy/mean"]]


def batches_to(result: Result, level: float = LEVEL) -> int | None:
    """Rollout batches learned from until the accuracy is at the level, or None."""
    return next((i for i, value in enumerate(accuracy(result)) if value >= level), None)


def early_accuracy(result: Result) -> float:
    """Mean accuracy after batches 1 to 5."""
    return statistics.fmean(accuracy(result)[1 : EARLY + 1])


def collapse(result: Result) -> int | None:
    """The first batch whose accuracy is below half of the best before it, or None."""
    values = accuracy(result)
    if result["diverged"] is not None:
        return int(result["diverged"]["batch"])
    return next(
        (i for i in range(1, len(values)) if values[i] < _COLLAPSED * max(values[:i])), None
    )


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean, and the ends of Student's 95% interval; both are the mean for a single value."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, mean, mean
    half = _STUDENT[len(values) - 2] * statistics.stdev(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def by_setting(results: Iterable[Result]) -> dict[Setting, list[Result]]:
    """Results that differ in the seed alone, in the order of seeds."""
    grouped: defaultdict[Setting, list[Result]] = defaultdict(list)
    for result in sorted(results, key=lambda result: result["seed"]):
        grouped[result["task"], result["objective"], result["lr"]].append(result)
    return dict(grouped)


def summarise(results: Sequence[Result]) -> list[dict[str, Any]]:
    """One row a setting; differences to DAPO are paired by seed."""
    grouped = by_setting(results)
    rows = []
    for (task, objective, lr), runs in sorted(grouped.items()):
        reached = [batches_to(run) for run in runs]
        rows.append(
            {
                "task": task,
                "objective": objective,
                "lr": lr,
                "seeds": len(runs),
                "batches_to_80": reached,
                "early_accuracy": _rounded(interval([early_accuracy(run) for run in runs])),
                "final_accuracy": _rounded(interval([accuracy(run)[-1] for run in runs])),
                "collapsed": sum(collapse(run) is not None for run in runs),
                "early_over_dapo": _difference(runs, grouped.get((task, "dapo", lr), [])),
            }
        )
    return rows


def _difference(ours: Sequence[Result], theirs: Sequence[Result]) -> list[float] | None:
    by_seed = {run["seed"]: early_accuracy(run) for run in theirs}
    pairs = [early_accuracy(run) - by_seed[run["seed"]] for run in ours if run["seed"] in by_seed]
    return _rounded(interval(pairs)) if pairs else None


def _rounded(values: Iterable[float]) -> list[float]:
    return [round(value, 4) for value in values]
