"""The panels of report.png: each draws some metrics of a history on its axes."""

import math
from typing import Any, TypeAlias

from matplotlib.ticker import MaxNLocator, NullFormatter, PercentFormatter

from cispo.phases import PHASES
from cispo.tracking.compute import ComputeCurve
from cispo.tracking.figure_style import INK, MUTED
from cispo.tracking.headline import heldout_metric
from cispo.tracking.history import History, names_under, series
from cispo.tracking.scaling import Fit

Axes: TypeAlias = Any

COLOURS = ("#2563eb", "#e4572e", "#159a72", "#b4540a", "#7c4dbd", "#c2255c", "#0e8fb3", "#6b7a0f")
_MOST_PARTS = 4
_ROOM_FOR_NAMES = 0.45
"""Beside curves whose ends are named, as a share of their width."""
_NAME_HEIGHT = 0.075
"""Of a panel."""


def heldout(axes: Axes, history: History, *, curve: ComputeCurve | None) -> None:
    """Accuracy on held-out tasks, and the sigmoid through it."""
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
    _name_ends(axes)
    _fit(axes, curve, of="heldout/")


def _fit(axes: Axes, curve: ComputeCurve | None, *, of: str) -> None:
    """Draw the sigmoid that a panel's curve was fitted by, and where it will level off."""
    if curve is None or not curve.metric.startswith(of) or not isinstance(curve.fit, Fit):
        return
    fit = curve.fit
    spent = [compute - curve.compute[0] for compute in curve.compute]
    label = f"fit, levels off at {fit.asymptote:.0%} ({fit.low:.0%} to {fit.high:.0%})"
    axes.plot(curve.steps, [fit.at(compute) for compute in spent], color=INK, ls="--", lw=1.4)
    axes.axhspan(fit.low, fit.high, color=INK, alpha=0.06, lw=0)
    axes.legend(axes.lines[-1:], [label], loc="lower right", handlelength=1.4)


def reward(axes: Axes, history: History, *, curve: ComputeCurve | None) -> None:
    """Reward in training, and the parts of it that change."""
    axes.set_title("Reward in training")
    axes.set_ylabel("mean reward of a rollout")
    _plot(axes, history, "reward/mean", "reward", COLOURS[0])
    parts = _changing_parts(history)
    for part, colour in zip(parts, _cycle(len(parts), start=1), strict=True):
        _plot(axes, history, part, part.removeprefix("reward/part/"), colour, linewidth=1.4)
    _name_ends(axes)
    _fit(axes, curve, of="accuracy/")


def _changing_parts(history: History) -> list[str]:
    """The parts of the reward that change most, few enough to tell their curves apart."""

    def spread(name: str) -> float:
        values = [value for value in series(history, name)[1] if math.isfinite(value)]
        return max(values) - min(values) if values else 0.0

    parts = [n for n in names_under(history, "reward/part/") if not n.endswith("/correct")]
    chosen = sorted(parts, key=spread, reverse=True)[:_MOST_PARTS]
    return [part for part in parts if part in chosen and spread(part) > 0]


def length(axes: Axes, history: History) -> None:
    """How long rollouts are, right and wrong ones."""
    axes.set_title("Length of rollouts")
    axes.set_ylabel("sampled tokens")
    _plot(axes, history, "length/mean_tokens", "mean", COLOURS[0])
    _plot(axes, history, "length/correct_mean_tokens", "right answers", COLOURS[2], linewidth=1.5)
    _plot(axes, history, "length/wrong_mean_tokens", "wrong answers", COLOURS[1], linewidth=1.5)
    _plot(axes, history, "length/p99_tokens", "99th percentile", MUTED, linewidth=1.2, ls=":")
    axes.set_ylim(bottom=0)
    _legend(axes)


def ratio(axes: Axes, history: History) -> None:
    """How far pi is from mu."""
    axes.set_title("Ratio pi / mu of action tokens")
    axes.set_ylabel("ratio")
    for lower, upper, shade in (("p01", "p99", 0.14), ("p10", "p90", 0.28)):
        steps, bottom = series(history, f"ratio/{lower}")
        _, top = series(history, f"ratio/{upper}")
        label = f"{int(lower[1:])} to {upper[1:]}%"
        if len(bottom) == len(top) and steps:
            axes.fill_between(steps, bottom, top, color=COLOURS[0], alpha=shade, lw=0, label=label)
    _plot(axes, history, "ratio/p50", "median", COLOURS[0])
    _legend(axes)


def mismatch(axes: Axes, history: History) -> None:
    """How far engine and learner disagree about the same weights."""
    axes.set_title("Engine against learner")
    axes.set_ylabel("nats apart at equal weights")
    _plot(axes, history, "mismatch/max_nats", "largest", COLOURS[1], linewidth=1.5)
    _plot(axes, history, "mismatch/mean_nats", "mean", COLOURS[0])
    names = ("mismatch/max_nats", "mismatch/mean_nats")
    logs = [math.log10(v) for n in names for v in series(history, n)[1] if 0 < v < math.inf]
    if logs:  # whole decades, whose ends alone are labelled
        axes.set_yscale("log")
        axes.set_ylim(10.0 ** math.floor(min(logs)), 10.0 ** math.ceil(max(logs) + 1e-9))
        axes.yaxis.set_minor_formatter(NullFormatter())
    _legend(axes)


def gradients(axes: Axes, history: History) -> None:
    """Norm of the gradient before clipping."""
    axes.set_title("Gradient norm")
    axes.set_ylabel("before clipping")
    _plot(axes, history, "learn/grad_norm/max", "largest", COLOURS[1], linewidth=1.5)
    _plot(axes, history, "learn/grad_norm", "mean", COLOURS[0])
    axes.set_ylim(bottom=0)
    _legend(axes)


def throughput(axes: Axes, history: History) -> None:
    """Tokens per second of the two sides."""
    axes.set_title("Throughput")
    axes.set_ylabel("tokens per second")
    _plot(axes, history, "time/rollout_tokens_per_second", "sampled", COLOURS[0])
    _plot(axes, history, "time/learner_tokens_per_second", "learned", COLOURS[1])
    axes.set_ylim(bottom=0)
    _legend(axes)


def weights(axes: Axes, history: History) -> None:
    """What the clip does."""
    axes.set_title("Clipped weights")
    axes.set_ylabel("share of action tokens")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    name = "weight/effective_sample_fraction"
    _plot(axes, history, name, "effective sample size", COLOURS[0])
    _plot(axes, history, "weight/capped_fraction", "at the cap", COLOURS[1])
    _plot(axes, history, "ratio/inert_fraction", "inert (ratio is 1)", MUTED, ls=":")
    axes.set_ylim(-0.02, 1.05)
    _legend(axes)


def entropy(axes: Axes, history: History) -> None:
    """How undecided the policy is."""
    axes.set_title("Entropy of the policy")
    axes.set_ylabel("nats per action token")
    _plot(axes, history, "entropy/mean_nats", "entropy", COLOURS[0])
    axes.set_ylim(bottom=0)


def staleness(axes: Axes, history: History) -> None:
    """How old what is learned from is."""
    axes.set_title("Staleness of what is learned")
    axes.set_ylabel("policy versions")
    _plot(axes, history, "staleness/max", "max", COLOURS[1], drawstyle="steps-mid")
    _plot(axes, history, "staleness/mean", "mean", COLOURS[0])
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(bottom=-0.05, top=max(1.2, axes.get_ylim()[1]))
    _legend(axes)


def groups(axes: Axes, history: History) -> None:
    """How hard tasks are for the policy."""
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


def phase_times(axes: Axes, history: History) -> None:
    """What the loop spends its time on."""
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


def _legend(axes: Axes, *, columns: int = 1) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if len(handles) > 1:
        axes.legend(handles, labels, ncols=columns, loc="best", handlelength=1.4, columnspacing=1.2)


def _name_ends(axes: Axes) -> None:
    """Write the name of each curve beside its end, in its colour, where no curve is covered."""
    lines = sorted(axes.lines, key=lambda line: line.get_ydata()[-1])
    if not lines:
        return
    bottom, top = axes.get_ylim()
    height = _NAME_HEIGHT * (top - bottom)
    places: list[float] = []
    for index, line in enumerate(lines):
        lowest = places[-1] + height if places else bottom
        highest = top - height * (len(lines) - 1 - index)
        places.append(max(lowest, min(line.get_ydata()[-1], highest)))
    first = min(line.get_xdata()[0] for line in lines)
    last = max(line.get_xdata()[-1] for line in lines)
    width = (last - first) or 1.0
    axes.set_xlim(first - 0.02 * width, last + _ROOM_FOR_NAMES * width)
    for place, line in zip(places, lines, strict=True):
        axes.text(
            last + 0.03 * width, place, line.get_label(), color=line.get_color(), va="center",
            fontsize=10.5, fontweight="bold" if line.get_linewidth() > 2 else "normal",
        )  # fmt: skip


def _cycle(count: int, *, start: int = 0) -> list[str]:
    return [COLOURS[(start + index) % len(COLOURS)] for index in range(count)]
