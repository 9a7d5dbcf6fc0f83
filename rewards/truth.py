"""What judging an answer needs, read from a task's JSON values (stdlib only)."""

from collections.abc import Mapping
from typing import Any


class BadTruthError(ValueError):
    """What judging needs is missing or cannot be read, which is not the policy's fault."""


def truth_field(truth: Mapping[str, Any], name: str, kind: type) -> Any:
    """Return a field that must be there.

    Raises:
        BadTruthError: It is missing or of another kind.
    """
    value = truth.get(name)
    if not isinstance(value, kind):
        raise BadTruthError(f"truth[{name!r}] is {value!r}, not a {kind.__name__}")
    return value
