"""The one thing that every source of tasks offers: a length and a task for each position."""

from typing import Protocol

from cispo.types import Task


class TaskTable(Protocol):
    """A finite, repeatable table of tasks."""

    name: str

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> Task:
        """Return the task in a row; the same row always holds the same task."""
