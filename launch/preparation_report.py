"""What became of tasks, as a table with a column for each source."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from cispo.data.screening.removal import Removal, RemovalReason
from cispo.types import Task

_BANDS: Mapping[str, Callable[[float | None], bool]] = {
    "pass rate 0": lambda rate: rate == 0,
    "pass rate in (0, 0.9)": lambda rate: rate is not None and 0 < rate < 0.9,
    "pass rate 0.9 or more": lambda rate: rate is not None and rate >= 0.9,
    "pass rate not known": lambda rate: rate is None,
}


def summary_lines(
    tasks: Sequence[Task],
    removed: Mapping[int, Removal],
    kept: Sequence[Task],
    *,
    was_measured: bool,
) -> list[str]:
    """Count by source and reason; a reason without a task is left out.

    Args:
        tasks: All that were read.
        removed: Removals by index.
        kept: Those that are left, with their pass rates.
        was_measured: Whether there are any.
    """
    sources = list(dict.fromkeys(task.source for task in tasks))
    rows = {"read": Counter(task.source for task in tasks)}
    for reason in RemovalReason:
        found = [tasks[index].source for index, r in removed.items() if r.reason is reason]
        if found:
            rows[f"- {reason.replace('_', ' ')}"] = Counter(found)
    rows["kept"] = Counter(task.source for task in kept)
    if was_measured:
        for name, is_in in _BANDS.items():
            rows[f"  {name}"] = Counter(task.source for task in kept if is_in(task.pass_rate))
    names = max(map(len, rows))
    widths = [max(len(source), 7) for source in sources]
    lines = [_line("", [*sources, "all"], names, [*widths, 7])]
    for name, counts in rows.items():
        numbers = [f"{counts[source]:,}" for source in sources]
        lines.append(_line(name, [*numbers, f"{counts.total():,}"], names, [*widths, 7]))
    return lines


def _line(name: str, cells: Sequence[str], names: int, widths: Sequence[int]) -> str:
    padded = [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
    return "  ".join([name.ljust(names), *padded])
