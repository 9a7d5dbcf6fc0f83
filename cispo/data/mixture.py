"""A weighted, endless mixture of task tables that is a pure function of the index."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

from cispo.data.base import TaskTable
from cispo.errors import ConfigError
from cispo.seeding import stream_seed
from cispo.types import Message, Task


class TaskMixture:
    """Tasks drawn from tables by weight; each epoch of a table has a new random order.

    `task(i)` is the same in every run with the same tables, weights and seed, so that a resume
    needs only the index.

    Args:
        tables: Where tasks come from.
        weights: Share of each table, > 0.
        seed: Decides the order.
        accepts: Tasks for which this is false are passed over.
        system_prompt: First message of every task, where not empty.

    Raises:
        ConfigError: On drawing: no task of a table is accepted.
    """

    def __init__(
        self,
        tables: Sequence[TaskTable],
        weights: Sequence[float],
        *,
        seed: int,
        accepts: Callable[[Task], bool] = lambda _: True,
        system_prompt: str = "",
    ) -> None:
        self._tables = list(tables)
        self._weights = list(weights)
        self._accepts = accepts
        self._system = (Message(role="system", content=system_prompt),) if system_prompt else ()
        self._rows = [
            _Shuffled(len(table), stream_seed(seed, "order", i)) for i, table in enumerate(tables)
        ]
        self._drawn: list[Task] = []
        self._choose = Random(stream_seed(seed, "mixture"))

    def task(self, index: int) -> Task:
        """Return the task at a position, from 0."""
        while len(self._drawn) <= index:
            self._drawn.append(self._draw())
        return self._drawn[index]

    def _draw(self) -> Task:
        which = self._choose.choices(range(len(self._tables)), self._weights)[0]
        table, rows = self._tables[which], self._rows[which]
        for _ in range(len(table)):
            task = table[rows.next()]
            if self._accepts(task):
                return _with_system(task, self._system)
        raise ConfigError(
            f"tasks.held_out_fraction: leaves no task of {table.name} ({len(table)} tasks) to draw"
        )


class _Shuffled:
    """Rows of a table in a new random order each epoch."""

    def __init__(self, length: int, seed: int) -> None:
        self._length, self._seed, self._epoch = length, seed, -1
        self._order: list[int] = []

    def next(self) -> int:
        if not self._order:
            self._epoch += 1
            self._order = list(range(self._length))
            Random(stream_seed(self._seed, self._epoch)).shuffle(self._order)
        return self._order.pop()


def prompt_text(task: Task) -> str:
    """The text by which two tasks count as the same problem."""
    return "\n".join(m.content for m in task.messages if m.role != "system")


def _with_system(task: Task, system: tuple[Message, ...]) -> Task:
    if not system or task.messages[0].role == "system":
        return task
    return replace(task, messages=system + task.messages)
