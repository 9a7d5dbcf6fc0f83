"""A run's metrics by name rather than by step, line by line as they arrive (stdlib only)."""

from array import array
from collections.abc import Mapping, Sequence

from cispo.tracking.alarms import Alarms
from cispo.tracking.history import History


class Columns:
    """The series of all metrics, and the alarms of the last step.

    Attributes:
        num_lines: Steps so far.
        last_step: The last of them; None before the first.
    """

    def __init__(self, history: History | None = None) -> None:
        """Begin with the lines of a history, if there are any."""
        self.num_lines = 0
        self.last_step: int | None = None
        self._alarms = Alarms()
        self._columns: dict[str, tuple[array[int], array[float]]] = {}
        for step, metrics in history or ():
            self.add(step, metrics)

    @property
    def alarms(self) -> Mapping[str, str]:
        """What is alarming about the last step, by metric."""
        return self._alarms.current

    @property
    def names(self) -> list[str]:
        """All metrics that any step had, sorted."""
        return sorted(self._columns)

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append a step; steps ascend."""
        for name, value in metrics.items():
            steps, values = self._columns.setdefault(name, (array("q"), array("d")))
            steps.append(step)
            values.append(value)
        self._alarms.begun(metrics)
        self.num_lines += 1
        self.last_step = step

    def series(self, name: str) -> tuple[Sequence[int], Sequence[float]]:
        """The steps that have the metric, and its values."""
        return self._columns.get(name, (array("q"), array("d")))

    def values(self, name: str) -> Sequence[float]:
        """The metric's values in the order of steps."""
        return self.series(name)[1]
