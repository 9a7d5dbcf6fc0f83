"""The summary as text."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_HEAD = ("task", "lr", "objective", "batches to 80%", "early accuracy", "over DAPO", "end", "lost")


def lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line a setting, below a head; intervals are Student's at 95%."""
    cells = [_HEAD, *(_cells(row) for row in sorted(rows, key=_order))]
    widths = [max(len(row[i]) for row in cells) for i in range(len(_HEAD))]
    return ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in cells]


def alarm_lines(found: Mapping[str, Any]) -> list[str]:
    """One line an alarm."""
    lines = [f"{found['collapsed']} of {found['collapsed'] + found['sound']} runs collapsed"]
    for name, judged in found.items():
        if isinstance(judged, Mapping):
            lines.append(
                f"alarm {name}: foretold {judged['foretold']} of {found['collapsed']}, median lead "
                f"{judged['median_lead']} batches; {judged['false_alarms']} false alarms in "
                f"{found['sound']} sound runs"
            )
    return lines


def _order(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["task"], row["lr"], row["objective"]


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        row["task"],
        f"{row['lr']:g}",
        row["objective"],
        " ".join("-" if count is None else str(count) for count in row["batches_to_80"]),
        _interval(row["early_accuracy"]),
        _interval(row["early_over_dapo"], sign="+") if row["objective"] != "dapo" else "",
        _interval(row["final_accuracy"]),
        f"{row['collapsed']}/{row['seeds']}",
    )


def _interval(values: Iterable[float] | None, sign: str = "") -> str:
    if values is None:
        return ""
    mean, low, _ = values
    return f"{mean:{sign}.3f}" + (f" ±{mean - low:.3f}" if low < mean else "")
