"""What is kept in memory of a file of rollouts: where each lies, and what it is filtered by."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from cispo.watch.members import Member, read_members

Rows: TypeAlias = npt.NDArray[np.void]

ROW = np.dtype(
    [
        ("member", np.int32),
        ("offset", np.int32),
        ("length", np.int32),
        ("group", np.int64),
        ("number", np.int16),
        ("source", np.int16),
        ("stop", np.int16),
        ("reward", np.float32),
        ("correct", np.float32),
        ("tokens", np.int32),
        ("dropped", np.bool_),
        ("traced", np.int8),
    ]
)
"""A rollout in 41 bytes: its place (`number` in its group), and NaN for what was not graded.

`traced` is 1 where single tokens are recorded, and 2 where their ratios are, too.
"""


_TOKENS, _RATIOS = b', "tokens": {"pieces": [', b'"ratios": ['


class Names:
    """Texts by small numbers; only one thread may add to them."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._numbers: dict[str, int] = {}

    def number(self, text: str) -> int:
        """The text's number, a new one for a new text."""
        if text not in self._numbers:
            self.texts.append(text)
            self._numbers[text] = len(self.texts) - 1
        return self._numbers[text]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileIndex:
    """One file, as it was when it was read.

    Attributes:
        path: The file.
        kind: `iteration` or `heldout`.
        step: Iterations before it.
        stamp: Size and time of change, by which a file that was replaced is noticed.
        members: Its members.
        rows: [N] of `ROW`, in the order of the file.
    """

    path: Path
    kind: str
    step: int
    stamp: tuple[int, int]
    members: tuple[Member, ...]
    rows: Rows


def stamp_of(path: Path) -> tuple[int, int]:
    """Size and time of change.

    Raises:
        OSError: It is gone.
    """
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns


def index_file(path: Path, *, sources: Names, stops: Names) -> FileIndex:
    """Read a file once, and keep what `FileIndex` says.

    Raises:
        OSError: The file cannot be read.
        RunFolderError: It is not a file of rollouts.
    """
    stamp = stamp_of(path)
    kind, _, number = path.name.partition(".")[0].partition("_")
    members: list[Member] = []
    rows: list[tuple[Any, ...]] = []
    for member, text in read_members(path):
        lines = text.splitlines(keepends=True)
        starts = accumulate((len(line) for line in lines), initial=0)
        for start, line in zip(starts, lines, strict=False):
            place = (len(members), start, len(line))
            rows.append(place + _facets(*_without_tokens(line), sources, stops))
        members.append(member)
    return FileIndex(
        path=path,
        kind=kind,
        step=int(number),
        stamp=stamp,
        members=tuple(members),
        rows=np.array(rows, dtype=ROW),
    )


def _without_tokens(line: bytes) -> tuple[Mapping[str, Any], int]:
    """A rollout without its single tokens, which are most of a line and last, and `traced`.

    No text can look like where they begin, since its quotes are escaped.
    """
    begin = line.rfind(_TOKENS)
    if begin >= 0:
        try:
            return json.loads(line[:begin] + b"}"), 2 if _RATIOS in line[begin:] else 1
        except ValueError:
            pass  # it is some part of the task that has such a shape
    entry = json.loads(line)
    tokens = entry.get("tokens")
    return entry, 0 if not tokens else 2 if "ratios" in tokens else 1


def _facets(entry: Mapping[str, Any], traced: int, sources: Names, stops: Names) -> tuple[Any, ...]:
    reward, parts = entry["reward"], entry["parts"] or {}
    return (
        entry["group"],
        entry["member"],
        sources.number(entry["source"]),
        stops.number(entry["stop_reason"]),
        math.nan if reward is None else reward,
        parts.get("correct", math.nan),
        entry["action_tokens"],
        entry["without_signal"] is not None,
        traced,
    )
