"""Applies the hunks of a patch to one text; imports nothing of ours, for it is sent into jails."""

import bisect
from collections.abc import Mapping, Sequence
from typing import Any


class DoesNotApplyError(ValueError):
    """The text does not hold the lines that a hunk replaces."""


def apply_hunks(text: str, hunks: Sequence[Mapping[str, Any]]) -> str:
    """Replace lines of a text.

    A hunk lies where its old lines are; of several such places the nearest to its line number
    counts, and without a number there must be only one. Hunks keep their order and do not overlap.

    Args:
        text: The text.
        hunks: `{"old": lines, "new": lines, "start": number from 1, or None}`, lines with their
            line feeds.

    Raises:
        DoesNotApplyError: With the number of the hunk and the reason.
    """
    *whole, rest = text.split("\n")
    lines = [f"{line}\n" for line in whole] + ([rest] if rest else [])
    result: list[str] = []
    done = shift = 0
    for number, hunk in enumerate(hunks, start=1):
        old, new = list(hunk["old"]), list(hunk["new"])
        start = hunk["start"]
        wanted = None if start is None else start - 1 + shift
        position = _position(lines, old, wanted, done, number)
        if wanted is not None:
            shift += position - wanted
        end = position + len(old)
        if old and new and old[-1].endswith("\n") and not lines[end - 1].endswith("\n"):
            new[-1] = new[-1].rstrip("\n")  # the text ends without one, and nobody said otherwise
        result += lines[done:position]
        if result and new and not result[-1].endswith("\n"):
            result[-1] += "\n"
        result += new
        done = end
    return "".join(result + lines[done:])


def _position(
    lines: Sequence[str], old: Sequence[str], wanted: int | None, done: int, number: int
) -> int:
    """Return the index of the first line that a hunk replaces."""
    if not old:
        if wanted is None and lines:
            raise DoesNotApplyError(f"hunk {number} only adds lines and does not say where")
        return min(max(wanted or 0, done), len(lines))
    needle = [line.rstrip("\n") for line in old]
    hay = [line.rstrip("\n") for line in lines]
    places = [
        place
        for place in range(done, len(hay) - len(needle) + 1)
        if hay[place] == needle[0] and hay[place : place + len(needle)] == needle
    ]
    if not places:
        raise DoesNotApplyError(f"hunk {number}: its lines are not there: {needle[0][:80]!r}")
    if wanted is None:
        if len(places) > 1:
            raise DoesNotApplyError(f"hunk {number}: its lines are there {len(places)} times")
        return places[0]
    after = bisect.bisect_left(places, wanted)
    near = places[max(after - 1, 0) : after + 1]
    return min(near, key=lambda place: abs(place - wanted))
