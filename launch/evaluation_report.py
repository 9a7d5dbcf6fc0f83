"""Shows results: a table, a plot, and two of them beside each other."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cispo.evaluation.intervals import Difference

Results = Mapping[str, Any]

_COLUMNS = ("set", "problems", "n", "scored by", "avg@n", "pass@n", "maj@n", "tokens", "cut off")
_COLOURS = ("tab:blue", "tab:orange")
_MARKERS = {"avg": "o", "pass": "^", "maj": "s"}
_ROW_INCHES = 0.55


def result_lines(results: Results) -> Iterator[str]:
    """Write a row a set: per cent with their intervals, lengths in tokens, and what went wrong."""
    rows = [_COLUMNS]
    ungraded: list[str] = []
    for name, one in results["sets"].items():
        n = one["num_rollouts"]
        cells = [_cell(one, kind) for kind in _MARKERS]
        counts = f"{one['tokens_mean']:.0f}", f"{one['truncated_fraction']:.0%}"
        rows.append((name, str(one["num_problems"]), str(n), one["metric"], *cells, *counts))
        ungraded += [f"  {name}: {number} x {cause}" for cause, number in one["ungraded"].items()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    yield f"{results['name']}: per cent [95% interval over problems], n answers to each problem"
    for first, *others in rows:
        cells = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        yield "  ".join([first.ljust(widths[0]), *cells])
    if ungraded:
        yield "without a verdict; a next call tries these problems again:"
        yield from ungraded


def difference_lines(
    ours: Results, theirs: Results, compared: Mapping[str, Mapping[str, Difference]]
) -> Iterator[str]:
    """Say how much better the first result is, set by set."""
    yield f"{ours['name']} - {theirs['name']}, paired by problem, 95% bootstrap interval:"
    for name, metrics in compared.items():
        for metric, apart in metrics.items():
            found = apart.estimate
            p = "p < 0.0005" if apart.p_value < 0.0005 else f"p = {apart.p_value:.3f}"
            yield (
                f"  {name} {metric}: {found.mean:+.4f} [{found.low:+.4f}, {found.high:+.4f}], "
                f"{p}, {found.num_problems} problems"
            )


def draw(all_results: Sequence[Results], path: Path) -> None:
    """Draw a row a set: avg@n, pass@n and maj@n with intervals, a colour a result."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(name for one in all_results for name in one["sets"]))
    figure, axes = pyplot.subplots(figsize=(8.0, 1.6 + _ROW_INCHES * len(names)), layout="tight")
    for index, results in enumerate(all_results):
        for kind, marker in _MARKERS.items():
            rows = [
                (place, _metric(results["sets"][name], kind))
                for place, name in enumerate(names)
                if name in results["sets"]
            ]
            shown = [(place, metric) for place, metric in rows if metric is not None]
            if not shown:
                continue
            offset = 0.12 * list(_MARKERS).index(kind) + 0.36 * index
            axes.errorbar(
                [metric["mean"] for _, metric in shown],
                [place + offset for place, _ in shown],
                xerr=_whiskers([metric for _, metric in shown]),
                fmt=marker,
                color=_COLOURS[index],
                markerfacecolor="white" if kind != "avg" else None,
                capsize=2,
                label=f"{results['name']} {kind}@n",
                linestyle="none",
            )
    labels = {
        name: f"{name}: {one['num_problems']} problems\nn={one['num_rollouts']}, {one['metric']}"
        for results in all_results
        for name, one in results["sets"].items()
    }
    axes.set_yticks(range(len(names)), [labels[name] for name in names])
    axes.invert_yaxis()
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel("mean over problems with its 95% interval; n answers to each problem")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(
        fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.35 / len(names) - 0.1), ncols=3
    )
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _cell(one: Mapping[str, Any], kind: str) -> str:
    metric = _metric(one, kind)
    if metric is None:
        return "-"
    return "{mean:.1%} [{low:.1%}, {high:.1%}]".format(**metric).replace("%", "")


def _metric(one: Mapping[str, Any], kind: str) -> Mapping[str, float] | None:
    """Return kind@n, unless it says the same as avg@n."""
    n = one["num_rollouts"]
    if kind == "pass" and n == 1 and one["metric"] == "correct":
        return None
    metric: Mapping[str, float] | None = one["metrics"].get(f"{kind}@{n}")
    return metric


def _whiskers(metrics: Sequence[Mapping[str, float]]) -> list[list[float]]:
    """Return the lengths of the intervals below and above the means."""
    below = [max(0.0, metric["mean"] - metric["low"]) for metric in metrics]
    above = [max(0.0, metric["high"] - metric["mean"]) for metric in metrics]
    return [below, above]
