"""What a call to a Ray actor raises when the actor is gone, and why it is, in one line."""

from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
)

_KINDS = (RayActorError, NodeDiedError, OutOfMemoryError, ObjectLostError)
_MAX_CHARACTERS = 240


def is_lost(error: BaseException) -> bool:
    """Whether an actor is gone or out of reach, or what it returned is.

    What the actor's own code raised is no loss, whatever its type: Ray wraps it.
    """
    return isinstance(error, _KINDS) and not isinstance(error, RayTaskError)


def cause_of(error: BaseException) -> str:
    """Shorten Ray's report of a loss, which takes many lines, to what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    last = lines[-1] if lines else type(error).__name__
    cause = last.removeprefix("The actor is dead because ")
    cause = cause.partition(" Some common causes include")[0].rstrip(".")
    return cause if len(cause) <= _MAX_CHARACTERS else f"{cause[:_MAX_CHARACTERS]}..."
