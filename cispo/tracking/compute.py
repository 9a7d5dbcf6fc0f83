"""What a run has learned by how much compute, read from its metrics."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from cispo.tracking.columns import Columns
from cispo.tracking.headline import heldout_metric
from cispo.tracking.scaling import Fit, Undetermined, fit

_LEARNED_PASSES = 3.0
"""Of a token that is learned from, forward and backward, in forward passes."""

_MAX_POINTS = 40
"""Points that are fitted; where there are more, neighbours are averaged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeCurve:
    """Performance by compute, and the sigmoid through it.

    Attributes:
        metric: What performance is.
        steps: Iterations at which it was measured.
        compute: Token passes until then: one a sampled token, three a token learned from, prompts
            included. A pass is 2 N operations with N active parameters, attention aside.
        performance: At each step, in 0..1.
        fit: The sigmoid, or why there is none.
    """

    metric: str
    steps: Sequence[int]
    compute: Sequence[float]
    performance: Sequence[float]
    fit: Fit | Undetermined


def compute_curve(columns: Columns) -> ComputeCurve | None:
    """Take held-out accuracy, or accuracy in training where that alone was measured often enough.

    Returns:
        None where nothing was measured.
    """
    spent = _token_passes(columns)
    held_out = heldout_metric(columns.names)
    names = [held_out, "accuracy/mean"] if held_out else ["accuracy/mean"]
    curves = [_curve(columns, name, spent) for name in names]
    found = [curve for curve in curves if curve is not None]
    fitted = [curve for curve in found if isinstance(curve.fit, Fit)]
    return next(iter([*fitted, *found]), None)


def _curve(columns: Columns, metric: str, spent: Sequence[float]) -> ComputeCurve | None:
    points = [(s, v) for s, v in zip(*columns.series(metric), strict=True) if math.isfinite(v)]
    if not points:
        return None
    steps = [step for step, _ in points]
    compute = [spent[step] for step in steps]
    performance = [value for _, value in points]
    return ComputeCurve(
        metric=metric,
        steps=steps,
        compute=compute,
        performance=performance,
        fit=fit(_averaged(compute), _averaged(performance)),
    )


def _averaged(values: Sequence[float]) -> list[float]:
    """The first value, which is where training begins, and means over equally many others."""
    others = values[1:]
    size = math.ceil(len(others) / _MAX_POINTS)
    starts = range(0, len(others), size or 1)
    return [values[0], *(sum(others[i : i + size]) / len(others[i : i + size]) for i in starts)]


def _token_passes(columns: Columns) -> list[float]:
    """Token passes until each step, from 0; a step without a line adds none."""
    passes = [0.0] * ((columns.last_step or 0) + 1)
    for metric, weight in (
        ("rollout/sampled_tokens", 1.0),
        ("rollout/learned_tokens", _LEARNED_PASSES),
    ):
        for step, value in zip(*columns.series(metric), strict=True):
            passes[step] += weight * value
    return list(accumulate(passes))
