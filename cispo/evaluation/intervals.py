"""How sure a mean over problems is: percentile bootstrap, also of the difference of two runs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

NUM_RESAMPLES = 4000
_DRAWS_AT_ONCE = 2**20
_UNLIKELY = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean over problems.

    Attributes:
        mean: Of the problems at hand.
        low: 2.5th percentile of the means of resampled problems.
        high: 97.5th percentile.
        num_problems: How many there are.
    """

    mean: float
    low: float
    high: float
    num_problems: int

    def __str__(self) -> str:
        return f"{self.mean:.4f} [{self.low:.4f}, {self.high:.4f}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """By how much one run is better than another on the same problems.

    Attributes:
        estimate: Of the mean difference.
        p_value: Two-sided: twice the share of resampled means on the smaller side of zero, those
            at zero on both sides; at most 1.
    """

    estimate: Estimate
    p_value: float


def estimate(values: Sequence[float], *, seed: int) -> Estimate:
    """Estimate the mean of one value a problem, with its 95% interval.

    Problems are what is resampled, never rollouts: rollouts of a problem are not independent of
    each other. Where all values agree the interval has no width, however few there are.

    Args:
        values: [P], one a problem.
        seed: Of the resampling.

    Raises:
        ValueError: There is no problem.
    """
    means = _resampled_means(values, seed)
    low, high = np.percentile(means, [2.5, 97.5])
    return Estimate(
        mean=float(np.mean(values)), low=float(low), high=float(high), num_problems=len(values)
    )


def share(values: Sequence[float], *, seed: int) -> Estimate:
    """Estimate the mean of values in 0..1 as `estimate` does, never without doubt.

    P zeros resample to zeros. But with a mean of m, which nothing above 1 makes up, there are P of
    them with a chance of (1 - m)^P at most; the interval ends where that is 5%. So it does where
    all are 1, on the other side.

    Args:
        values: [P], one a problem, in 0..1.
        seed: Of the resampling.

    Raises:
        ValueError: There is no problem.
    """
    found = estimate(values, seed=seed)
    rest = _UNLIKELY ** (1 / len(values))
    if found.mean == 0.0:
        return replace(found, high=1.0 - rest)
    return replace(found, low=rest) if found.mean == 1.0 else found


def difference(ours: Sequence[float], theirs: Sequence[float], *, seed: int) -> Difference:
    """Estimate the mean of `ours - theirs`, problem by problem: a paired bootstrap.

    Args:
        ours: [P], one a problem.
        theirs: [P] of the same problems in the same order.
        seed: Of the resampling.

    Raises:
        ValueError: There is no problem, or another number of them.
    """
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} and {len(theirs)} problems cannot be paired")
    apart = [our - their for our, their in zip(ours, theirs, strict=True)]
    means = _resampled_means(apart, seed)
    smaller = min(np.mean(means <= 0.0), np.mean(means >= 0.0))
    return Difference(estimate=estimate(apart, seed=seed), p_value=min(1.0, 2.0 * float(smaller)))


def _resampled_means(values: Sequence[float], seed: int) -> NDArray[np.float64]:
    if not values:
        raise ValueError("there is no problem to estimate from")
    known = np.asarray(values, dtype=np.float64)
    rng = np.random.default_rng(seed)
    rows = max(1, _DRAWS_AT_ONCE // len(known))
    means = [
        known[rng.integers(0, len(known), (min(rows, NUM_RESAMPLES - done), len(known)))].mean(1)
        for done in range(0, NUM_RESAMPLES, rows)
    ]
    return np.concatenate(means)
