"""All cells of the comparison, one after the other; a sweep that was ended goes on where it was."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.objectives.cell import OBJECTIVES, Cell, Result, run_cell
from benchmarks.objectives.cold_start import cold_start

SEEDS = (0, 1, 2, 3, 4)
RATES = {"t15": (5e-5, 2e-4, 8e-4, 1.6e-3), "c4": (2e-4, 8e-4, 3.2e-3), "t04": (2e-4, 8e-4)}
QUICK = {"t15": (2e-4,), "c4": (8e-4,)}


def grid(rates: dict[str, Sequence[float]], seeds: Sequence[int]) -> list[Cell]:
    """Seed by seed, so that a sweep that is ended early has all cells of the first seeds."""
    return [
        Cell(task=task, objective=objective, lr=lr, seed=seed)
        for seed in seeds
        for task, of_task in rates.items()
        for lr in of_task
        for objective in OBJECTIVES
    ]


def run_sweep(cells: Sequence[Cell], *, folder: Path) -> list[Result]:
    """Run the cells that `cells.jsonl` of the folder does not have, and append each at its end."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "cells.jsonl"
    done = {_key(result): result for result in read_results(path)}
    path.write_text("".join(f"{json.dumps(result)}\n" for result in done.values()), "utf-8")
    for number, cell in enumerate(cells, start=1):
        if _key(asdict(cell)) in done:
            continue
        result = run_cell(cell, cold_start(cell.task, folder))
        done[_key(result)] = result
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")
        accuracy = " ".join(f"{value:.2f}" for value in result["curves"]["accuracy/mean"])
        print(
            f"{number}/{len(cells)} {cell.task} {cell.objective} lr {cell.lr:g} seed {cell.seed} "
            f"depth {cell.depth} ({result['cpu_seconds']} s): {accuracy}",
            flush=True,
        )
    return [done[_key(asdict(cell))] for cell in cells]


def read_results(path: Path) -> list[Result]:
    """Read what a sweep has so far; a torn last line is passed over."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _key(result: Result) -> tuple[object, ...]:
    return tuple(result[name] for name in ("task", "objective", "lr", "seed", "depth"))
