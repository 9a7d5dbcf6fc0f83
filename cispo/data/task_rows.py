"""Tasks as lines of a file: what `cispo.data.rows` reads back as the same tasks (stdlib only)."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cispo.types import Task


def task_row(task: Task) -> dict[str, Any]:
    """Return a task's row; what is not set has no column.

    Raises:
        ValueError: It is an agent's task, which is made from a row of another kind.
    """
    if task.is_agentic:
        raise ValueError(f"task {task.task_id} is an agent's")
    row: dict[str, Any] = {
        "task_id": task.task_id,
        "messages": [{"role": m.role, "content": m.content} for m in task.messages],
        "verifier": task.verifier,
        "truth": dict(task.truth),
        "source_name": task.source,
    }
    extras = {"solution": task.solution, "pass_rate": task.pass_rate}
    return row | {name: value for name, value in extras.items() if value is not None}


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write lines of JSON, all of them or none.

    Raises:
        OSError: The file cannot be written.
    """
    unfinished = path.with_name(f"{path.name}.unfinished")
    with unfinished.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    os.replace(unfinished, path)
