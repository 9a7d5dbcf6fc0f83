"""The benchmark's stored result: a cell a line, so that a changed cell is a changed line."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.objectives.cell import Result

RESULT = Path(__file__).parents[1] / "results" / "objectives.json"
FIGURE = RESULT.with_suffix(".png")


def write(path: Path, head: Mapping[str, Any], cells: Sequence[Result]) -> None:
    """Write what was found, and the cells that it was found from."""
    found = json.dumps(head, indent=1).removesuffix("\n}")
    lines = ",\n".join(f"  {json.dumps(cell)}" for cell in cells)
    path.write_text(f'{found},\n "cells": [\n{lines}\n ]\n}}\n', encoding="utf-8")


def read(path: Path) -> list[Result]:
    """Read the cells back."""
    cells: list[Result] = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return cells
