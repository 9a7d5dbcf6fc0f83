"""Compare CISPO with DAPO and GRPO, 16 off-policy updates a rollout batch; see docs/objectives.md.

    python -m benchmarks.objectives             # all cells; goes on where it was ended
    python -m benchmarks.objectives --quick     # one rate of two tasks, one seed; writes nothing
    python -m benchmarks.objectives --draw      # only tables and figure, of the finished cells

Finished cells and first policies are kept in runs/objectives; delete that folder to measure anew.
"""

import argparse
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

from benchmarks.machine import describe
from benchmarks.objectives import alarm, depth_one, table
from benchmarks.objectives.figure import draw
from benchmarks.objectives.settings import settings
from benchmarks.objectives.stored import FIGURE, RESULT, read, write
from benchmarks.objectives.summary import summarise
from benchmarks.objectives.sweep import QUICK, RATES, SEEDS, grid, run_sweep

DEPTH_ONE = ("t15", 8e-4)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.objectives")
    parser.add_argument("--quick", action="store_true", help="a few cells; writes nothing")
    parser.add_argument("--draw", action="store_true", help="only tables and figure")
    parser.add_argument("--folder", type=Path, default=Path("runs/objectives"))
    options = parser.parse_args()
    if options.draw:
        cells = read(RESULT)
    elif options.quick:
        cells = run_sweep(grid(QUICK, SEEDS[:1]), folder=options.folder)
    else:
        cells = run_sweep(grid(RATES, SEEDS), folder=options.folder)
    rows, found = summarise(cells), alarm.measure(cells)
    print("\n".join(table.lines(rows)))
    print("\n".join(table.alarm_lines(found)))
    if options.quick:
        return
    if not options.draw:
        task, lr = DEPTH_ONE
        same = depth_one.compare(task, lr=lr, folder=options.folder)
        print(f"one update a batch: CISPO and DAPO identical: {same['is_identical']}")
        head = {
            "machine": describe(),
            "settings": settings(),
            "summary": rows,
            "alarms": found,
            "depth_one": same,
        }
        write(RESULT, head, cells)
    draw(cells, FIGURE)
    print(f"figure: {FIGURE}")


if __name__ == "__main__":
    main()
