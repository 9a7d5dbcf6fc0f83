"""Why a task is left out of what is trained on (stdlib only)."""

from dataclasses import dataclass
from enum import StrEnum


class RemovalReason(StrEnum):
    """What is wrong with a task."""

    CONTAMINATED = "contaminated"
    DUPLICATE = "duplicate"
    CONTRADICTION = "contradiction"
    NEAR_DUPLICATE = "near_duplicate"
    MULTIPLE_CHOICE = "multiple_choice"
    PROOF = "proof"
    MULTI_PART = "multi_part"
    YES_NO = "yes_no"
    UNREADABLE_ANSWER = "unreadable_answer"
    REJECTED_ANSWER = "rejected_answer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """That a task is left out.

    Attributes:
        reason: What is wrong with it.
        detail: With what it collides, or what gives it away, for the person who checks.
    """

    reason: RemovalReason
    detail: str
