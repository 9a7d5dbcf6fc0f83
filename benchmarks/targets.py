"""What a benchmark must reach, and whether it did."""

import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import describe


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A number with its bound.

    Attributes:
        name: What was measured, with its unit.
        value: What came out.
        at_least: Its lower bound, or None.
        at_most: Its upper bound, or None.
    """

    name: str
    value: float
    at_least: float | None = None
    at_most: float | None = None

    @property
    def is_met(self) -> bool:
        """Whether the value lies within its bounds."""
        is_low = self.at_least is not None and self.value < self.at_least
        is_high = self.at_most is not None and self.value > self.at_most
        return not (is_low or is_high)

    @property
    def bound(self) -> str:
        """The bounds in words."""
        if self.at_least is None:
            return f"at most {self.at_most:g}"
        return f"at least {self.at_least:g}"


def show_targets(targets: Iterable[Target]) -> None:
    """Print a table."""
    print(f"\n{'target':56} {'measured':>10}  {'bound':16}")
    for target in targets:
        word = "met" if target.is_met else "MISSED"
        print(f"{target.name:56} {target.value:10.2f}  {target.bound:16} {word}")


def as_rows(targets: Iterable[Target]) -> list[dict[str, object]]:
    """Return what is stored."""
    return [
        {
            "name": target.name,
            "measured": round(target.value, 3),
            "bound": target.bound,
            "is_met": target.is_met,
        }
        for target in targets
    ]


def conclude(
    result: Path | None, targets: Sequence[Target], *, began: float, **measured: object
) -> None:
    """Print the targets, and store them beside what was measured.

    Args:
        result: Where; None stores nothing.
        targets: What was to be reached.
        began: `time.perf_counter()` at the start.
        measured: By name.
    """
    show_targets(targets)
    report = {
        "machine": describe(),
        **measured,
        "targets": as_rows(targets),
        "seconds": time.perf_counter() - began,
    }
    if result is not None:
        result.write_text(json.dumps(report, indent=1) + "\n")
