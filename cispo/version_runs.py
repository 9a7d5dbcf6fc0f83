"""Which weights sampled which tokens, as runs: a rollout meets few syncs, and has many tokens."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TypeAlias

VersionRuns: TypeAlias = tuple[tuple[int, int], ...]
"""(version, how many tokens it sampled in a row), in the order of the tokens; counts above 0."""


def joined_runs(runs: Iterable[tuple[int, int]]) -> VersionRuns:
    """Join neighbours of one version, and drop what is empty."""
    joined: list[tuple[int, int]] = []
    for version, count in runs:
        if joined and joined[-1][0] == version:
            joined[-1] = (version, joined[-1][1] + count)
        elif count:
            joined.append((version, count))
    return tuple(joined)


def sampled_runs(starts: Sequence[tuple[int, int]], is_sampled: Sequence[bool]) -> VersionRuns:
    """Count the sampled tokens of each version.

    Args:
        starts: (version, first token that came under it), ascending; the first starts at 0.
        is_sampled: [T] False on tokens that the engine forced.
    """
    bounds = [*starts, (0, len(is_sampled))]
    return joined_runs(
        (version, sum(is_sampled[start:end])) for (version, start), (_, end) in pairwise(bounds)
    )


def first_runs(runs: VersionRuns, count: int) -> VersionRuns:
    """The runs of the first `count` sampled tokens."""
    kept: list[tuple[int, int]] = []
    for version, length in runs:
        kept.append((version, min(length, count)))
        count -= kept[-1][1]
    return joined_runs(kept)
