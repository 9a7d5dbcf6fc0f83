"""Why a task is passed over when tasks are drawn (stdlib only)."""

from collections.abc import Callable
from enum import StrEnum
from typing import TypeAlias

from cispo.types import Task


class SkipReason(StrEnum):
    """Why a task is not sampled."""

    HELD_OUT = "held_out"
    FOR_TRAINING = "for_training"
    NOT_ADMITTED = "not_admitted"
    TOO_HARD = "too_hard"
    TOO_EASY = "too_easy"
    SOLVED = "solved"


IN_TRAINING = tuple(reason for reason in SkipReason if reason != SkipReason.FOR_TRAINING)
"""Why training may pass over a task."""

Skips: TypeAlias = Callable[[Task], SkipReason | None]
"""Says why a task is passed over, or None where it is not."""


def no_skips(task: Task) -> None:
    """Pass over no task."""


def measured_too(
    task: Task, *, above: float | None = None, below: float | None = None
) -> SkipReason | None:
    """Compare the pass rate that was measured before the run with open bounds.

    A task without a measured pass rate is let through.
    """
    rate = task.pass_rate
    if rate is None:
        return None
    if above is not None and rate <= above:
        return SkipReason.TOO_HARD
    return SkipReason.TOO_EASY if below is not None and rate >= below else None
