"""How well the product's alarms foretell a collapse, on the stored curves."""

import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.objectives.cell import Result
from benchmarks.objectives.summary import collapse
from cispo.tracking.alarms import DEPARTURE, Alarms

NAMES = (
    DEPARTURE,
    "weight/effective_sample_fraction",
    "weight/capped_fraction",
    "learn/grad_norm/max",
)
"""Alarms of the product that see what updates do, by their metrics."""


def warned(result: Result, name: str) -> int | None:
    """The first rollout batch after whose updates the alarm is on, or None."""
    alarms, curves = Alarms(), result["curves"]
    for i in range(len(curves["accuracy/mean"])):
        alarms.begun({n: values[i] for n, values in curves.items() if values[i] is not None})
        if name in alarms.current:
            return i
    return None


def measure(results: Sequence[Result]) -> dict[str, Any]:
    """By alarm: collapses that it foretold, by how many batches, and false alarms.

    The batch that shows a collapse was sampled after the updates of the one before it. A lead of 1
    is therefore the last moment: the warning stands beside the updates that did the damage.
    """
    lost = [run for run in results if collapse(run) is not None]
    sound = [run for run in results if collapse(run) is None]
    return {
        "collapsed": len(lost),
        "sound": len(sound),
        **{name: _judged(name, lost, sound) for name in NAMES},
    }


def _judged(name: str, lost: Sequence[Result], sound: Sequence[Result]) -> dict[str, Any]:
    leads = [_lead(run, name) for run in lost]
    before = [lead for lead in leads if lead is not None and lead > 0]
    false = [run for run in sound if warned(run, name) is not None]
    return {
        "foretold": len(before),
        "leads_in_batches": leads,
        "median_lead": statistics.median(before) if before else None,
        "false_alarms": len(false),
        "false_alarm_cells": [
            {key: run[key] for key in ("task", "objective", "lr", "seed")} for run in false
        ],
    }


def _lead(run: Result, name: str) -> int | None:
    begun, lost = warned(run, name), collapse(run)
    assert lost is not None
    return None if begun is None else lost - begun
