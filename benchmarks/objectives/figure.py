"""Draws the comparison: a panel a task and learning rate, and what they come to."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from benchmarks.objectives.cell import OBJECTIVES, Result
from benchmarks.objectives.summary import (
    Setting,
    accuracy,
    by_setting,
    collapse,
    early_accuracy,
    interval,
)
from cispo.tracking.alarms import DEPARTURE, DEPARTURE_NATS

Axes: TypeAlias = Any

INK, MUTED, GRID = "#1f2933", "#65758b", "#e4e8ee"
COLOURS = {"cispo": "#2563eb", "dapo": "#e4572e", "grpo": "#159a72"}
TASKS = {"t15": "fork, 15% long", "c4": "chain", "t04": "fork, 4% long"}
_STYLE = {
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelcolor": MUTED,
    "axes.edgecolor": "#c5ccd6",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "lines.linewidth": 2.0,
    "lines.solid_capstyle": "round",
}


def draw(results: Sequence[Result], path: Path) -> None:
    """Write the picture: lines are means over seeds, bands reach from the worst to the best."""
    grouped = by_setting(results)
    rates = {task: sorted({lr for t, _, lr in grouped if t == task}) for task in TASKS}
    columns = max(4, *map(len, rates.values()))
    seeds = len({run["seed"] for run in results})
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(4.0 * columns, 11.0), dpi=100, facecolor="white")
        FigureCanvasAgg(figure)
        grid = figure.subplots(3, columns)
        for row, (task, of_task) in zip(grid, rates.items(), strict=True):
            for axes, lr in zip(row, of_task, strict=False):
                _curves(axes, grouped, task, lr)
            row[0].set_ylabel("right answers")
            for axes in row[len(of_task) :]:
                axes.axis("off")
        _speed(grid[2][-2], grouped)
        _signal(grid[2][-1], results)
        _legend(figure, seeds)
        figure.subplots_adjust(
            left=0.05, right=0.985, top=0.87, bottom=0.06, hspace=0.42, wspace=0.22
        )
        figure.savefig(path)


def _legend(figure: Any, seeds: int) -> None:
    title = "CISPO, DAPO and GRPO, 16 off-policy updates a rollout batch"
    text = f"mean of {seeds} seeds, band from the worst seed to the best; equal problems and noise"
    figure.text(0.05, 0.963, title, fontsize=19, fontweight="bold", va="center")
    figure.text(0.05, 0.928, text, fontsize=12, color=MUTED, va="center")
    for i, (name, colour) in enumerate(COLOURS.items()):
        x = 0.74 + 0.085 * i
        figure.text(x, 0.928, "—", color=colour, fontsize=20, fontweight="bold", va="center")
        figure.text(x + 0.018, 0.928, name.upper(), fontsize=13, va="center")


def _curves(axes: Axes, grouped: Mapping[Setting, list[Result]], task: str, lr: float) -> None:
    axes.set_title(f"{TASKS[task]}: lr {_rate(lr)}")
    for objective in OBJECTIVES:
        runs = [accuracy(run) for run in grouped.get((task, objective, lr), [])]
        if not runs:
            continue
        steps = range(min(map(len, runs)))
        at = [[run[i] for run in runs] for i in steps]
        colour = COLOURS[objective]
        low, high = [min(v) for v in at], [max(v) for v in at]
        axes.fill_between(steps, low, high, color=colour, alpha=0.15, lw=0)
        axes.plot(steps, [sum(v) / len(v) for v in at], color=colour)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("rollout batches learned from")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
    axes.margins(x=0.02)


def _speed(axes: Axes, grouped: Mapping[Setting, list[Result]]) -> None:
    axes.axis("on")
    axes.set_title("fork, 15% long: by learning rate")
    for objective in OBJECTIVES:
        rates = sorted(lr for task, name, lr in grouped if (task, name) == ("t15", objective))
        runs = [[early_accuracy(run) for run in grouped["t15", objective, lr]] for lr in rates]
        values = [interval(of_rate) for of_rate in runs]
        means = [mean for mean, _, _ in values]
        ends = [[m - low for m, low, _ in values], [high - m for m, _, high in values]]
        axes.errorbar(
            rates, means, yerr=ends, color=COLOURS[objective], marker="o", capsize=3, lw=1.8
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("learning rate")
    axes.set_ylabel("right, mean after batches 1 to 5")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def _signal(axes: Axes, results: Sequence[Result]) -> None:
    axes.axis("on")
    axes.set_title("what the alarm sees")
    for run in results:
        values = [value for value in run["curves"][DEPARTURE] if value is not None]
        is_lost = collapse(run) is not None
        colour = "#c2255c" if is_lost else "#9aa7b8"
        axes.plot(
            range(1, len(values) + 1), [max(v, 1e-6) for v in values],
            color=colour, lw=1.1, alpha=0.8 if is_lost else 0.35, zorder=3 if is_lost else 2,
        )  # fmt: skip
    axes.axhline(DEPARTURE_NATS, color=INK, lw=1.2, ls="--")
    axes.set_yscale("log")
    axes.set_ylim(bottom=1e-5)
    axes.set_xlabel("rollout batch")
    axes.set_ylabel(DEPARTURE)


def _rate(lr: float) -> str:
    mantissa, exponent = f"{lr:.1e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"
