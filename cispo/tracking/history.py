"""Reads back the metrics of a run (stdlib only)."""

import json
import os
from pathlib import Path
from typing import TypeAlias

History: TypeAlias = list[tuple[int, dict[str, float]]]
"""Metrics by step, in ascending steps; step i is after i iterations."""


def read_history(path: Path) -> History:
    """Read `metrics.jsonl`; a torn last line, which a killed run may leave, is passed over.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line before the last is not JSON.
    """
    history: History = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            entry = json.loads(line)
            history.append((entry.pop("step"), entry))
    return history


def shorten(path: Path, *, through: int) -> None:
    """Remove the lines of later steps, and a torn last one; nothing where there is no file.

    Raises:
        ValueError: A line before the last is not JSON.
    """
    if not path.exists():
        return
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [x for x in lines if x.endswith("\n") and json.loads(x)["step"] <= through]
    shortened = path.with_suffix(".tmp")
    shortened.write_text("".join(kept), encoding="utf-8")
    os.replace(shortened, path)


def series(history: History, name: str) -> tuple[list[int], list[float]]:
    """The steps that have the metric, and its values."""
    points = [(step, metrics[name]) for step, metrics in history if name in metrics]
    return [step for step, _ in points], [value for _, value in points]


def names_under(history: History, prefix: str) -> list[str]:
    """All metric names with the prefix, sorted."""
    return sorted({n for _, metrics in history for n in metrics if n.startswith(prefix)})
