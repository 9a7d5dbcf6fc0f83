"""Why the ranks of a learner cannot go on, in one error (the only place that judges it)."""

from collections.abc import Mapping, Sequence
from typing import NoReturn

import torch
from ray.exceptions import RayTaskError

from cispo.errors import CispoError, LearnerError, LearnerLostError
from cispo.lost_actors import cause_of, is_lost
from cispo.stacks import Dump

_OUTSIDE = (torch.AcceleratorError, torch.distributed.DistError)
"""What a device or the network did, and not a program: a new start may cure it."""


def names_of(ranks: Sequence[int]) -> str:
    """Name ranks, as in "rank 1" or "ranks 0, 2"."""
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"


def process_name(rank: int) -> str:
    """Under which a rank offers its stacks."""
    return f"learner rank {rank}"


def raise_worst(errors: Mapping[int, BaseException], num_ranks: int, method: str) -> NoReturn:
    """Raise what explains a failure best: a verdict of our own, else the dead, else any error.

    When one rank dies its peers fail too, with "connection reset" from the collective they were in.

    Args:
        errors: What ranks failed with.
        num_ranks: Of the whole learner.
        method: What they were asked for.

    Raises:
        LearnerLostError: Ranks died, or a device or the network failed.
        CispoError: Whatever a rank refused.
        LearnerError: Anything else.
    """
    causes = {
        rank: error.cause if isinstance(error, RayTaskError) else error
        for rank, error in errors.items()
    }
    for cause in causes.values():
        if isinstance(cause, CispoError):
            raise cause from None
    dead = [rank for rank, error in errors.items() if is_lost(error)]
    if dead:
        raise LearnerLostError(
            f"learner {names_of(dead)} of {num_ranks} died during {method}: "
            f"{cause_of(errors[dead[0]])}"
        ) from errors[dead[0]]
    rank, cause = next(iter(causes.items()))
    kind = LearnerLostError if isinstance(cause, _OUTSIDE) else LearnerError
    raise kind(f"learner rank {rank} of {num_ranks} failed in {method}: {errors[rank]}") from cause


def hung(
    late: Sequence[int], num_ranks: int, method: str, *, seconds: float, dump: Dump | None
) -> LearnerLostError:
    """Name the ranks that hang.

    In a collective all ranks wait for the one that hangs. It is the one that does not even show its
    stacks, where there is such a one.

    Args:
        late: Ranks that have not answered.
        num_ranks: Of the whole learner.
        method: What they were asked for.
        seconds: How long they had.
        dump: Stacks that were asked of all processes meanwhile.
    """
    silent = dump.silent if dump else {}
    frozen = [rank for rank in late if process_name(rank) in silent]
    states = sorted({silent[process_name(rank)] for rank in frozen} - {""})
    return LearnerLostError(
        f"learner {names_of(frozen or late)} of {num_ranks} gave no answer to {method} in "
        f"learner.step_seconds={seconds:g} s"
        + (f" ({', '.join(states)})" if states else "")
        + (f"; stacks: {dump.path}" if dump else "")
    )
