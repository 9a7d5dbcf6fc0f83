"""With one update a rollout batch CISPO and DAPO are the same algorithm: a check of the harness."""

from pathlib import Path
from typing import Any

from benchmarks.objectives.cell import Cell, run_cell
from benchmarks.objectives.cold_start import cold_start


def compare(task: str, *, lr: float, folder: Path) -> dict[str, Any]:
    """Run both, in the engine's replay mode, in which mu is pi to the last bit before an update."""
    found = {}
    for objective in ("cispo", "dapo"):
        cell = Cell(task=task, objective=objective, lr=lr, seed=0, depth=1)
        found[objective] = run_cell(cell, cold_start(task, folder), replays=True)["curves"]
    numbers = [value for values in found["cispo"].values() for value in values]
    return {
        "task": task,
        "lr": lr,
        "is_identical": found["cispo"] == found["dapo"],
        "numbers_compared": len([value for value in numbers if value is not None]),
        "accuracy": found["cispo"]["accuracy/mean"],
    }
