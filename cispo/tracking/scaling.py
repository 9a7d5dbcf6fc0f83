"""Fits how performance grows with compute: ScaleRL's sigmoid, and how far it can be believed.

R(C) = R_0 + (A - R_0) / (1 + (C_mid / C)^B) of arXiv 2510.13786: performance R after compute C,
from R_0 at none up to the asymptote A, of which half is gained at C_mid; B says how steeply.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float64]

MIN_POINTS = 7
"""R_0, the three points that a fit needs, and as many that show whether it holds."""

MIN_FACTOR = 3.0
"""Between the compute of the second point and that of the last."""

WIDEST = 0.15
"""An interval of A wider than this leaves A undetermined."""

_EXPONENTS = (0.25, 8.0)
_BEYOND = 100.0
"""C_mid is looked for up to this many times the compute of the last point."""

_GRID = 16
_ZOOMS = 4
_RESAMPLES = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """A sigmoid that its points determine.

    Attributes:
        start: R_0, the first point.
        asymptote: A.
        low: Lower end of A's 95% bootstrap interval.
        high: Its upper end.
        midpoint: C_mid, in the units of compute.
        exponent: B.
        rmse: Root mean square of what the curve misses the points by.
    """

    start: float
    asymptote: float
    low: float
    high: float
    midpoint: float
    exponent: float
    rmse: float

    def at(self, compute: float) -> float:
        """R at an amount of compute; R_0 at none."""
        if compute <= 0.0:
            return self.start
        share = 1.0 / (1.0 + (self.midpoint / compute) ** self.exponent)
        return float(self.start + (self.asymptote - self.start) * share)


@dataclass(frozen=True, slots=True, kw_only=True)
class Undetermined:
    """There is no fit to believe.

    Attributes:
        reason: Why, in words.
    """

    reason: str


def fit(
    compute: Sequence[float], performance: Sequence[float], *, seed: int = 0
) -> Fit | Undetermined:
    """Fit the sigmoid to a run's evaluations.

    For a grid of C_mid and B, A follows in closed form by least squares, within 0..1; the grid is
    then laid anew around the best cell, four times. The interval of A is a bootstrap of what the
    curve misses the points by, which keeps the amounts of compute as they are.

    Args:
        compute: Ascending, in any unit; the first is where training begins, for example 0.
        performance: R at each, in 0..1; the first is taken for R_0.
        seed: Decides the bootstrap.

    Returns:
        The fit, or why the points do not determine one.
    """
    if len(compute) < MIN_POINTS:
        return Undetermined(
            reason=f"{len(compute)} of the {MIN_POINTS} points that it takes are there"
        )
    start = performance[0]
    spent = np.array(compute[1:]) - compute[0]
    gains = np.array(performance[1:]) - start
    if spent[-1] < MIN_FACTOR * spent[0]:
        return Undetermined(
            reason=f"the points span only a factor {spent[-1] / spent[0]:.1f} of compute"
        )
    bounds = (-start, 1.0 - start)
    best = _search(spent, gains, bounds)
    expected = best.gain * best.shares(spent)
    missed = gains - expected
    rmse = float(np.sqrt(np.mean(missed**2)))
    if (doubt := _doubt(best, spent, expected, rmse)) is not None:
        return Undetermined(reason=doubt)
    draws = np.random.default_rng(seed)
    resampled = (draws.choice(missed, len(missed)) for _ in range(_RESAMPLES))
    gained = [_search(spent, expected + noise, bounds).gain for noise in resampled]
    low, high = (start + float(np.quantile(gained, q)) for q in (0.025, 0.975))
    if high - low > WIDEST:
        return Undetermined(
            reason=f"it does not level off yet: A may lie anywhere in {low:.0%} to {high:.0%}"
        )
    return Fit(
        start=start,
        asymptote=start + best.gain,
        low=low,
        high=high,
        midpoint=best.midpoint,
        exponent=best.exponent,
        rmse=rmse,
    )


def _doubt(best: "_Curve", spent: Floats, expected: Floats, rmse: float) -> str | None:
    """Why a curve cannot be believed, whatever its bootstrap says."""
    if abs(expected[-1]) < 2.0 * rmse:
        return "what was gained does not stand out from the noise"
    if best.midpoint > spent[-1]:
        return "it still climbs: less than half of what the curve expects has been gained"
    if not 1.01 * _EXPONENTS[0] < best.exponent < 0.99 * _EXPONENTS[1]:
        return "the points show a step or a line rather than a sigmoid"
    return None


@dataclass(frozen=True, slots=True)
class _Curve:
    gain: float
    midpoint: float
    exponent: float

    def shares(self, spent: Floats) -> Floats:
        """What share of the gain there is after so much compute."""
        return np.asarray(1.0 / (1.0 + (self.midpoint / spent) ** self.exponent))


def _search(spent: Floats, gains: Floats, bounds: tuple[float, float]) -> _Curve:
    logs = np.log(spent)
    middle = (logs[0] - 1.0, logs[-1] + math.log(_BEYOND))
    steepness = (math.log(_EXPONENTS[0]), math.log(_EXPONENTS[1]))
    for _ in range(_ZOOMS):
        m, b = (np.linspace(low, high, _GRID) for low, high in (middle, steepness))
        curve, at_m, at_b = _best_of(logs, gains, bounds, midpoints=m, exponents=np.exp(b))
        middle = _around(m, at_m)
        steepness = _around(b, at_b)
    return curve


def _best_of(
    logs: Floats,
    gains: Floats,
    bounds: tuple[float, float],
    *,
    midpoints: Floats,
    exponents: Floats,
) -> tuple[_Curve, int, int]:
    """The best cell of a grid of log C_mid and B, and where it lies."""
    arguments = exponents[None, :, None] * (logs - midpoints[:, None, None])
    shares = 0.5 * (1.0 + np.tanh(0.5 * arguments))  # the logistic function, without overflow
    norms = np.maximum(np.square(shares).sum(-1), 1e-300)
    amplitudes = np.clip(shares @ gains / norms, *bounds)
    errors = np.square(amplitudes[..., None] * shares - gains).sum(-1)
    at_m, at_b = divmod(int(errors.argmin()), len(exponents))
    curve = _Curve(float(amplitudes[at_m, at_b]), math.exp(midpoints[at_m]), float(exponents[at_b]))
    return curve, at_m, at_b


def _around(grid: Floats, index: int) -> tuple[float, float]:
    return float(grid[max(index - 1, 0)]), float(grid[min(index + 1, len(grid) - 1)])
