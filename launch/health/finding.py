"""What a check found, and how a list of checks is carried out (stdlib only)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from cispo.errors import CispoError


class Level(StrEnum):
    """How bad it is: `WARN` lets a run start, `FAIL` does not, or not well."""

    OK = "ok"
    WARN = "warn"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one check found.

    Attributes:
        level: How bad it is.
        text: What was seen.
        fix: What to do about it; only what is `OK` needs none.
    """

    level: Level = Level.OK
    text: str
    fix: str = ""

    def __post_init__(self) -> None:
        assert self.fix or self.level is Level.OK

    def __str__(self) -> str:
        return f"{self.text}; to mend it: {self.fix}" if self.fix else self.text


Check = Callable[[], Finding]


def worse(first: Level, second: Level) -> Level:
    """Return the worse of two."""
    order = list(Level)
    return max(first, second, key=order.index)


def carry_out(checks: Mapping[str, Check], say: Callable[[str], None]) -> bool:
    """Carry out checks, say a line on each, and return whether none failed."""
    worst = Level.OK
    for name, check in checks.items():
        try:
            found = check()
        except CispoError as error:  # its message says what to do
            found = Finding(level=Level.FAIL, text=str(error), fix="as it says")
        except Exception as error:  # a check that breaks is a finding too, and hides no other
            found = Finding(
                level=Level.FAIL,
                text=f"the check itself failed: {type(error).__name__}: {error}",
                fix="report it",
            )
        say(f"{found.level:<4}  {name:<12} {found}")
        worst = worse(worst, found.level)
    return worst is not Level.FAIL
