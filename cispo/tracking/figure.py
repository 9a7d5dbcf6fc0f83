"""Draws report.png: nine panels that show whether and why a run learned."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from cispo.tracking.headline import heldout_metric
from cispo.tracking.history import History, names_under, series

Axes: TypeAlias = Any

INK, MUTED, GRID = "#1f2933", "#65758b", "#e4e8ee"
COLOURS = ("#2563eb", "#e4572e", "#159a72", "#b4540a", "#7c4dbd", "#c2255c", "#0e8fb3", "#6b7a0f")
PHASES = ("sample", "learn", "publish", "evaluate", "checkpoint")
_MOST_PARTS = 4
_STYLE = {
    "font.size": 12,
    "axes.titlesize": 14,
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
    "legend.framealpha": 0.85,
    "legend.edgecolor": "none",
    "legend.fontsize": 10.5,
    "lines.linewidth": 2.2,
    "lines.solid_capstyle": "round",
}


def draw(history: History, path: Path, *, title: str, subtitle: str = "") -> None:
    """Write the picture.

    Args:
        history: What `read_history` returned; panels without data say so.
        path: A `.png` file.
        title: First line of the picture.
        subtitle: Second line.
    """
    panels: Sequence[Callable[[Axes, History], None]] = (
        _heldout,
        _reward,
        _length,
        _ratio,
        _weights,
        _entropy,
        _groups,
        _staleness,
        _phase_times,
    )
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(15.5, 12.2), dpi=110, facecolor="white")
        FigureCanvasAgg(figure)
        grid = figure.subplots(3, 3)
        for axes, panel in zip(grid.flat, panels, strict=True):
            panel(axes, history)
            axes.set_xlabel("iteration")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
            axes.margins(x=0.02)
            if not axes.has_data():
                axes.text(
                    0.5, 0.5, "no data", color=MUTED, ha="center", va="center",
                    transform=axes.transAxes,
                )  # fmt: skip
        figure.subplots_adjust(
            left=0.06, right=0.985, top=0.885, bottom=0.055, hspace=0.42, wspace=0.24
        )
        figure.text(0.06, 0.965, title, fontsize=22, fontweight="bold", va="center")
        figure.text(0.06, 0.935, subtitle, fontsize=13, color=MUTED, va="center")
        figure.savefig(path)


def _heldout(axes: Axes, history: History) -> None:
    names = [name for _, metrics in history if (name := heldout_metric(metrics))]
    axes.set_title("Held-out accuracy")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    if not names:
        return
    overall = names[-1]
    axes.set_ylabel(f"{overall.removeprefix('heldout/')}, share right")
    sources = names_under(history, f"{overall}/")
    for source, colour in zip(sources, _cycle(len(sources), start=1), strict=True):
        label = source.removeprefix(f"{overall}/")
        _plot(axes, history, source, label, colour, linewidth=1.5, marker="o", markersize=3.5)
    _plot(axes, history, overall, "all", COLOURS[0], linewidth=3.2, marker="o", markersize=6)
    axes.set_ylim(-0.02, 1.02)
    _legend(axes)


def _reward(axes: Axes, history: History) -> None:
    axes.set_title("Reward in training")
    axes.set_ylabel("mean reward of a rollout")
    _plot(axes, history, "reward/mean", "reward", COLOURS[0])
    parts = _changing_parts(history)
    for part, colour in zip(parts, _cycle(len(parts), start=1), strict=True):
        label = part.removeprefix("reward/part/")
        _plot(axes, history, part, f"part: {label}", colour, linewidth=1.4)
    _legend(axes)


def _changing_parts(history: History) -> list[str]:
    """The parts of the reward that change most, for a legend that leaves the curves in view."""

    def spread(name: str) -> float:
        values = [value for value in series(history, name)[1] if math.isfinite(value)]
        return max(values) - min(values) if values else 0.0

    parts = [n for n in names_under(history, "reward/part/") if not n.endswith("/correct")]
    chosen = sorted(parts, key=spread, reverse=True)[:_MOST_PARTS]
    return [part for part in parts if part in chosen and spread(part) > 0]


def _length(axes: Axes, history: History) -> None:
    axes.set_title("Length of rollouts")
    axes.set_ylabel("sampled tokens")
    _plot(axes, history, "length/mean_tokens", "mean", COLOURS[0])
    _plot(axes, history, "length/correct_mean_tokens", "right answers", COLOURS[2], linewidth=1.5)
    _plot(axes, history, "length/wrong_mean_tokens", "wrong answers", COLOURS[1], linewidth=1.5)
    _plot(axes, history, "length/p99_tokens", "99th percentile", MUTED, linewidth=1.2, ls=":")
    axes.set_ylim(bottom=0)
    _legend(axes)


def _ratio(axes: Axes, history: History) -> None:
    axes.set_title("Ratio pi / mu of action tokens")
    axes.set_ylabel("ratio")
    for lower, upper, shade in (("p01", "p99", 0.14), ("p10", "p90", 0.28)):
        steps, bottom = series(history, f"ratio/{lower}")
        _, top = series(history, f"ratio/{upper}")
        label = f"{int(lower[1:])} to {upper[1:]}%"
        if len(bottom) == len(top) and steps:
            axes.fill_between(steps, bottom, top, color=COLOURS[0], alpha=shade, lw=0, label=label)
    _plot(axes, history, "ratio/p50", "median", COLOURS[0])
    _, gaps = series(history, "mismatch/max_nats")
    if gaps:
        low, high = axes.get_ylim()
        axes.set_ylim(top=high + 0.25 * (high - low))
        text = f"engine and learner at equal weights:\nat most {max(gaps):.1g} nats apart"
        place = {"transform": axes.transAxes, "va": "top", "fontsize": 10.5}
        axes.text(0.03, 0.97, text, color=MUTED, **place)
    _legend(axes, where="lower right")


def _weights(axes: Axes, history: History) -> None:
    axes.set_title("Clipped weights")
    axes.set_ylabel("share of action tokens")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    name = "weight/effective_sample_fraction"
    _plot(axes, history, name, "effective sample size", COLOURS[0])
    _plot(axes, history, "weight/capped_fraction", "at the cap", COLOURS[1])
    _plot(axes, history, "ratio/inert_fraction", "inert (ratio is 1)", MUTED, ls=":")
    axes.set_ylim(-0.02, 1.05)
    _legend(axes)


def _entropy(axes: Axes, history: History) -> None:
    axes.set_title("Entropy of the policy")
    axes.set_ylabel("nats per action token")
    _plot(axes, history, "entropy/mean_nats", "entropy", COLOURS[0])
    axes.set_ylim(bottom=0)


def _staleness(axes: Axes, history: History) -> None:
    axes.set_title("Staleness of what is learned")
    axes.set_ylabel("policy versions")
    _plot(axes, history, "staleness/max", "max", COLOURS[1], drawstyle="steps-mid")
    _plot(axes, history, "staleness/mean", "mean", COLOURS[0])
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(bottom=-0.05, top=max(1.2, axes.get_ylim()[1]))
    _legend(axes)


def _groups(axes: Axes, history: History) -> None:
    axes.set_title("Groups by pass rate")
    axes.set_ylabel("share of groups sampled")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    bins = ("100", "75_to_100", "50_to_75", "25_to_50", "0_to_25", "0")
    labels = ("all right", "75–99%", "50–75%", "25–50%", "1–25%", "all wrong")
    shades = ("#159a72", "#63bd9e", "#b3dccd", "#f6c9b8", "#ee9377", "#d6431b")
    rows = [series(history, f"groups/pass_{b}_fraction") for b in bins]
    if rows[0][0]:
        axes.stackplot(rows[0][0], *(r[1] for r in rows), colors=shades, labels=labels, linewidth=0)
        axes.set_ylim(0, 1)
        _legend(axes, columns=3)


def _phase_times(axes: Axes, history: History) -> None:
    axes.set_title("Time by phase")
    axes.set_ylabel("seconds of an iteration")
    rows = [(step, metrics) for step, metrics in history if step > 0]
    if not rows:
        return
    steps = [step for step, _ in rows]
    floor = [0.0] * len(rows)
    for phase, colour in zip(PHASES, _cycle(len(PHASES)), strict=True):
        seconds = [metrics.get(f"time/{phase}_seconds", 0.0) for _, metrics in rows]
        if any(seconds):
            axes.bar(
                steps, seconds, bottom=floor, width=1.0, linewidth=0, color=colour, label=phase
            )
            floor = [a + b for a, b in zip(floor, seconds, strict=True)]
    axes.set_ylim(top=1.3 * axes.get_ylim()[1])
    _legend(axes, columns=3)


def _plot(
    axes: Axes, history: History, name: str, label: str, colour: str, **style: object
) -> None:
    points = [(s, v) for s, v in zip(*series(history, name), strict=True) if math.isfinite(v)]
    if len(points) == 1:
        style = {"marker": "o", **style}
    if points:
        axes.plot(*zip(*points, strict=True), color=colour, label=label, **style)


def _legend(axes: Axes, *, columns: int = 1, where: str = "best") -> None:
    handles, labels = axes.get_legend_handles_labels()
    if len(handles) > 1:
        axes.legend(handles, labels, ncols=columns, loc=where, handlelength=1.4, columnspacing=1.2)


def _cycle(count: int, *, start: int = 0) -> list[str]:
    return [COLOURS[(start + index) % len(COLOURS)] for index in range(count)]
