"""Writes what a run leaves behind at its end: summary.json, report.png, report.html."""

from collections.abc import Mapping
from pathlib import Path

from cispo.tracking.columns import Columns
from cispo.tracking.compute import compute_curve
from cispo.tracking.figure import draw
from cispo.tracking.health import examine
from cispo.tracking.history import read_history
from cispo.tracking.report import lead, write_report
from cispo.tracking.rollouts import read_rollouts
from cispo.tracking.summary import summarise, write_summary


def conclude(
    folder: Path,
    *,
    name: str,
    iterations: int | None = None,
    failures: Mapping[str, int] | None = None,
) -> dict[str, object]:
    """Read the run's files and write its summary and report.

    Args:
        folder: The run's folder, with `metrics.jsonl` and, where they exist, `config.yaml` and
            `rollouts/`.
        name: Name of the run.
        iterations: How many it was to have; None where that is not known.
        failures: What went wrong and is not in the metrics, by kind.

    Returns:
        The summary, for `Tracker.finish`.
    """
    history = read_history(folder / "metrics.jsonl")
    summary = summarise(history, failures=failures)
    write_summary(folder / "summary.json", summary)
    picture = folder / "report.png"
    columns = Columns(history)
    health = examine(columns, iterations=iterations)
    curve = compute_curve(columns)
    draw(history, picture, title=name, subtitle=lead(summary), health=health, curve=curve)
    config = folder / "config.yaml"
    recorded = sorted((folder / "rollouts").glob("iteration_*.jsonl.gz"))
    write_report(
        folder / "report.html",
        name=name,
        summary=summary,
        health=health,
        curve=curve,
        picture=picture.read_bytes(),
        rollouts=read_rollouts(recorded[-1]) if recorded else [],
        config=config.read_text(encoding="utf-8") if config.exists() else "",
    )
    return summary
