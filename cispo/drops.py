"""Groups from which nothing can be learned, and when there are too many (stdlib only)."""

from collections import Counter
from collections.abc import Sequence
from enum import StrEnum

from cispo.advantages import has_signal
from cispo.errors import NoSignal, UngradedError
from cispo.types import Group, Ungraded


class DropReason(StrEnum):
    """Why a group has no signal."""

    ALL_RIGHT = "all_right"
    ALL_WRONG = "all_wrong"
    EQUAL_REWARDS = "equal_rewards"
    UNGRADED = "ungraded"


_ADVICE = {
    DropReason.ALL_RIGHT: "the policy solves every rollout: give it harder tasks",
    DropReason.ALL_WRONG: "the policy solves none: give it easier tasks or a better cold start",
    DropReason.EQUAL_REWARDS: "a task's rollouts earn the same: check reward and temperature",
    DropReason.UNGRADED: "verdicts are missing: look after reward workers and sandbox",
}


def drop_reason(group: Group) -> DropReason | None:
    """Say why a group has no signal, or None where its graded rewards differ."""
    if has_signal(group):
        return None
    if len(group.graded) < 2:
        return DropReason.UNGRADED
    correct = {verdict.parts["correct"] for _, verdict in group.graded}
    if correct == {1.0}:
        return DropReason.ALL_RIGHT
    return DropReason.ALL_WRONG if correct == {0.0} else DropReason.EQUAL_REWARDS


def no_signal(groups: Sequence[Group], reasons: Sequence[DropReason]) -> NoSignal:
    """Describe a run of dropped groups: counts by reason, pass rate, and what would help."""
    counts = Counter(reasons)
    correct = [verdict.parts["correct"] for group in groups for _, verdict in group.graded]
    pass_rate = f"{sum(correct) / len(correct):.1%}" if correct else "unknown"
    listed = ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
    return NoSignal(
        f"{len(groups)} groups in a row carried no signal (task {groups[0].index} to "
        f"{groups[-1].index} of the run): {listed}; pass rate {pass_rate}. "
        f"Mostly, {_ADVICE[counts.most_common(1)[0][0]]}. "
        "objective.max_consecutive_drops sets how many are too many."
    )


def ungraded_error(groups: Sequence[Group], max_fraction: float) -> UngradedError | None:
    """Describe the missing verdicts by cause, or return None where they are within the limit."""
    verdicts = [verdict for group in groups for verdict in group.verdicts]
    causes = Counter(verdict.cause for verdict in verdicts if isinstance(verdict, Ungraded))
    if causes.total() <= max_fraction * len(verdicts):
        return None
    listed = "; ".join(f"{count} x {cause}" for cause, count in causes.most_common(5))
    return UngradedError(
        f"{causes.total()} of {len(verdicts)} verdicts are missing, more than "
        f"reward.max_ungraded_fraction={max_fraction} allows: {listed}"
    )
