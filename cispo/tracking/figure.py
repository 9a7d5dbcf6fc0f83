"""Draws report.png: a verdict, and twelve panels that show whether and why a run learned."""

import textwrap
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cispo.tracking.compute import ComputeCurve
from cispo.tracking.figure_panels import (
    Axes,
    entropy,
    gradients,
    groups,
    heldout,
    length,
    mismatch,
    phase_times,
    ratio,
    reward,
    staleness,
    throughput,
    weights,
)
from cispo.tracking.figure_style import MUTED, STYLE
from cispo.tracking.health import Health
from cispo.tracking.history import History


def draw(
    history: History,
    path: Path,
    *,
    title: str,
    subtitle: str = "",
    health: Health | None = None,
    curve: ComputeCurve | None = None,
) -> None:
    """Write the picture.

    Args:
        history: What `read_history` returned; panels without data say so.
        path: A `.png` file.
        title: First line of the picture.
        subtitle: Second line.
        health: The verdict, shown in green or red; None shows none.
        curve: Performance by compute, of which the fit is drawn over what it was fitted to.
    """
    panels: Sequence[Callable[[Axes, History], None]] = (
        partial(heldout, curve=curve),
        partial(reward, curve=curve),
        length,
        entropy,
        groups,
        gradients,
        ratio,
        weights,
        mismatch,
        staleness,
        throughput,
        phase_times,
    )
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(15.5, 16.2), dpi=100, facecolor="white")
        FigureCanvasAgg(figure)
        grid = figure.subplots(4, 3)
        last = history[-1][0] if history else 0
        for axes, panel in zip(grid.flat, panels, strict=True):
            panel(axes, history)
            axes.set_xlabel("iteration")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
            axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}" if x <= last else "")
            axes.margins(x=0.02)
            if not axes.has_data():
                axes.text(
                    0.5, 0.5, "no data", color=MUTED, ha="center", va="center",
                    transform=axes.transAxes,
                )  # fmt: skip
        figure.subplots_adjust(
            left=0.06, right=0.985, top=0.875, bottom=0.04, hspace=0.42, wspace=0.24
        )
        figure.text(0.06, 0.977, title, fontsize=22, fontweight="bold", va="center")
        figure.text(0.06, 0.955, subtitle, fontsize=13, color=MUTED, va="center")
        if health is not None:
            _verdict(figure, health)
        figure.savefig(path)


def _verdict(figure: Figure, health: Health) -> None:
    """A line that can be read from across the room."""
    dark, light = ("#117a59", "#e7f5ef") if health.is_healthy else ("#c2370f", "#fdeee8")
    text = textwrap.fill(health.headline, 125, max_lines=2, placeholder=" …")
    figure.text(
        0.065, 0.922, text, fontsize=15, fontweight="bold", color=dark, va="center",
        bbox={"boxstyle": "round,pad=0.5", "facecolor": light, "edgecolor": dark},
    )  # fmt: skip
