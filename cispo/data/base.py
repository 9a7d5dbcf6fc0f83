"""The one thing that every source of tasks offers: a length and a task for each position."""

from dataclasses import replace
from typing import Protocol

from cispo.types import Task


class TaskTable(Protocol):
    """A finite, repeatable table of tasks."""

    name: str

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> Task:
        """Return the task in a row; the same row always holds the same task."""


class Labelled:
    """A table whose tasks come from a source of another name."""

    def __init__(self, table: TaskTable, label: str) -> None:
        self.name = label
        self._table = table

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, row: int) -> Task:
        return replace(self._table[row], source=self.name)
