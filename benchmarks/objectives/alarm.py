"""How well the product's alarms foretell a collapse, on the stored curves."""

import statistics
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from benchmarks.objectives.cell import Result
from benchmarks.objectives.summary import collapse
from cispo.tracking.departure import DIVERGENCE, LIMIT_NATS, DepartureMonitor
from cispo.tracking.gradients import GradientMonitor
from cispo.types import Metrics

SIGNAL, THRESHOLD = DIVERGENCE, LIMIT_NATS

Monitor: TypeAlias = Callable[[Metrics], str | None]
MONITORS: dict[str, Callable[[], Monitor]] = {
    "departure": lambda: DepartureMonitor().message,
    "gradient": lambda: GradientMonitor().message,
}


def warned(result: Result, monitor: Monitor) -> int | None:
    """The first rollout batch after whose updates the monitor speaks, or None."""
    curves = result["curves"]
    for i in range(len(curves["accuracy/mean"])):
        metrics = {name: values[i] for name, values in curves.items() if values[i] is not None}
        if monitor(metrics) is not None:
            return i
    return None


def measure(results: Sequence[Result]) -> dict[str, Any]:
    """By monitor: collapses that it foretold, by how many batches, and false alarms.

    The batch that shows a collapse was sampled after the updates of the one before it. A lead of 1
    is therefore the last moment: the warning stands beside the updates that did the damage.
    """
    lost = [run for run in results if collapse(run) is not None]
    sound = [run for run in results if collapse(run) is None]
    return {
        "collapsed": len(lost),
        "sound": len(sound),
        **{name: _judged(make, lost, sound) for name, make in MONITORS.items()},
    }


def _judged(
    make: Callable[[], Monitor], lost: Sequence[Result], sound: Sequence[Result]
) -> dict[str, Any]:
    leads = [_lead(run, make()) for run in lost]
    before = [lead for lead in leads if lead is not None and lead > 0]
    false = [run for run in sound if warned(run, make()) is not None]
    return {
        "foretold": len(before),
        "leads_in_batches": leads,
        "median_lead": statistics.median(before) if before else None,
        "false_alarms": len(false),
        "false_alarm_cells": [
            {name: run[name] for name in ("task", "objective", "lr", "seed")} for run in false
        ],
    }


def _lead(run: Result, monitor: Monitor) -> int | None:
    begun, lost = warned(run, monitor), collapse(run)
    assert lost is not None
    return None if begun is None else lost - begun
