"""How rewards become advantages: each rollout is compared with others of its task (stdlib only)."""

import math
from collections.abc import Sequence
from typing import assert_never

from cispo.config import AdvantageKind
from cispo.types import Group, Sample


def has_signal(group: Group) -> bool:
    """Whether a group can move the policy: at least two graded members whose rewards differ."""
    rewards = [verdict.reward for _, verdict in group.graded]
    return len(rewards) >= 2 and min(rewards) != max(rewards)


def advantages(
    groups: Sequence[Group], *, kind: AdvantageKind, leaves_out_equal: bool = False
) -> list[tuple[Sample, ...]]:
    """Turn the groups of one iteration into samples.

    With rewards R_1..R_G of a group's graded members:

    * `GROUP_STD`: (R_i - mean_j R_j) / std_j R_j with the population's standard deviation and no
      epsilon (MiniMax-M1, eq. 2); 0 for a group without spread.
    * `GROUP_MEAN`: R_i - mean_j R_j, the same without division (Dr. GRPO).
    * `BATCH_STD`: (R_i - mean_j R_j) / s, where s is the root mean square of all centred rewards of
      the iteration (ScaleRL's batch normalisation); 0 where s is 0.
    * `LEAVE_ONE_OUT`: R_i - mean_{j != i} R_j (RLOO).

    Args:
        groups: The groups of one iteration, over all of which `BATCH_STD` normalises.
        kind: The estimator.
        leaves_out_equal: Whether groups whose rewards are equal give no samples. As samples, their
            advantages of zero count in every average over tokens.

    Returns:
        One tuple a group, in order. An `Ungraded` member neither becomes a sample nor votes in the
        mean; a group with fewer than two graded members gives an empty tuple.
    """
    rewards = [[verdict.reward for _, verdict in group.graded] for group in groups]
    values = [_centred(members) if len(members) >= 2 else [] for members in rewards]
    match kind:
        case AdvantageKind.GROUP_MEAN:
            pass
        case AdvantageKind.GROUP_STD:
            values = [_divided(members, by=_root_mean_square(members)) for members in values]
        case AdvantageKind.BATCH_STD:
            spread = _root_mean_square([value for members in values for value in members])
            values = [_divided(members, by=spread) for members in values]
        case AdvantageKind.LEAVE_ONE_OUT:
            # R_i - (S - R_i) / (G - 1) = (R_i - S / G) * G / (G - 1)
            values = [[v * len(m) / (len(m) - 1) for v in m] for m in values]
        case _:
            assert_never(kind)
    return [
        () if leaves_out_equal and not has_signal(group) else _samples(group, members)
        for group, members in zip(groups, values, strict=True)
    ]


def _centred(rewards: Sequence[float]) -> list[float]:
    if min(rewards) == max(rewards):
        # Rounding of the mean would leave 1e-17 here, which a division by the equally tiny spread
        # would blow up to an advantage of one.
        return [0.0] * len(rewards)
    mean = math.fsum(rewards) / len(rewards)
    return [reward - mean for reward in rewards]


def _root_mean_square(values: Sequence[float]) -> float:
    if not values:
        return 0.0
    return math.sqrt(math.fsum(value * value for value in values) / len(values))


def _divided(values: Sequence[float], *, by: float) -> list[float]:
    return [value / by if by > 0.0 else 0.0 for value in values]


def _samples(group: Group, values: Sequence[float]) -> tuple[Sample, ...]:
    if not values:
        return ()
    return tuple(
        Sample(rollout=rollout, advantage=value, group_index=group.index)
        for (rollout, _), value in zip(group.graded, values, strict=True)
    )
