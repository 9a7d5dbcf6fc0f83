"""Draws the comparison: a panel a task and learning rate, and what they come to."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from benchmarks.objectives.alarm import measure
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
from cispo.tracking.figure_style import INK, MUTED, STYLE

Axes: TypeAlias = Any

COLOURS = {"cispo": "#2563eb", "dapo": "#e4572e", "grpo": "#159a72"}
TASKS = {"t15": "fork, 15% long", "c4": "chain", "t04": "fork, 4% long"}
_STYLE = {**STYLE, "font.size": 11, "axes.titlesize": 12, "lines.linewidth": 2.0}


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
        _speed(grid[1][-1], grouped)
        _signal(grid[2][-2], results)
        _leads(grid[2][-1], results)
        _legend(figure, seeds)
        figure.subplots_adjust(
            left=0.05, right=0.985, top=0.87, bottom=0.06, hspace=0.42, wspace=0.3
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
    axes.set_ylabel("mean after batches 1 to 5")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def _signal(axes: Axes, results: Sequence[Result]) -> None:
    """What is left of a run's best accuracy, by how far its first batch led from mu."""
    axes.axis("on")
    axes.set_title("first batch, and what is left")
    for run in results:
        values = accuracy(run)
        is_lost = collapse(run) is not None
        axes.plot(
            run["curves"][DEPARTURE][0], sum(values[-2:]) / 2 / max(values), ls="",
            marker="x" if is_lost else "o", ms=6, mew=1.6, alpha=0.75, mfc="none",
            color=COLOURS[run["objective"]],
        )  # fmt: skip
    axes.axvline(DEPARTURE_NATS, color=INK, lw=1.2, ls="--")
    axes.text(DEPARTURE_NATS, 1.04, "alarm ", ha="right", fontsize=10, color=INK)
    axes.plot([], [], "x", color=MUTED, label="fell below half of its best")
    axes.plot([], [], "o", mfc="none", color=MUTED, label="did not")
    axes.legend(loc="lower left", frameon=False, fontsize=10)
    axes.set_xscale("log")
    axes.set_ylim(-0.02, 1.12)
    axes.set_xlabel("KL(mu, pi) of the first batch, nats a token")
    axes.set_ylabel("accuracy in the end / best")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def _leads(axes: Axes, results: Sequence[Result]) -> None:
    """How early the alarm is, where it foretells a collapse, and how often it does not."""
    axes.axis("on")
    axes.set_title("lead of the alarm")
    leads = measure(results)[DEPARTURE]["leads_in_batches"]
    early = [lead for lead in leads if lead is not None and lead > 0]
    bins = range(1, max(early, default=1) + 1)
    axes.bar(bins, [early.count(lead) for lead in bins], color="#c2255c", width=0.75)
    axes.bar([0], [len(leads) - len(early)], color="#9aa7b8", width=0.75)
    axes.set_xticks([0, *bins], ["–", *map(str, bins)])
    axes.grid(visible=False, axis="x")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("batches from alarm to collapse (–: none)")
    axes.set_ylabel("collapsed runs")


def _rate(lr: float) -> str:
    mantissa, exponent = f"{lr:.1e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"
