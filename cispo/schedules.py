"""What a run changes on its way, by what its iterations show: schedules as one (stdlib only)."""

from collections.abc import Mapping, Sequence
from typing import Any

from cispo.ports import Schedule
from cispo.types import Group, Metrics


class Schedules:
    """Implements `cispo.ports.Schedule` over several.

    Args:
        parts: Schedules by name, under which checkpoints keep their state.
    """

    def __init__(self, parts: Mapping[str, Schedule] | None = None) -> None:
        self._parts = dict(parts or {})

    def observe(self, groups: Sequence[Group]) -> Metrics:
        """Let each take note of an iteration; returns what all of them log."""
        logged: dict[str, float] = {}
        for part in self._parts.values():
            logged |= part.observe(groups)
        return logged

    def state(self) -> dict[str, Any]:
        """The state of each, by name."""
        return {name: dict(part.state()) for name, part in self._parts.items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Let each go on from its state; one that has none begins anew."""
        for name, part in self._parts.items():
            part.restore(state.get(name, {}))
