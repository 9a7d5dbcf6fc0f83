"""Finds rollouts by what is known of them and by their text, in bounded time a request."""

import json
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from cispo.errors import RunFolderError
from cispo.watch.file_index import FileIndex, Rows
from cispo.watch.index import RolloutIndex

Mask: TypeAlias = npt.NDArray[np.bool_]

ORDERS: Mapping[str, Callable[[Rows], npt.NDArray[np.float32]] | None] = {
    "newest": None,
    "longest": lambda rows: -rows["tokens"].astype(np.float32),
    "shortest": lambda rows: rows["tokens"].astype(np.float32),
    "highest reward": lambda rows: -rows["reward"],
    "lowest reward": lambda rows: rows["reward"],
}
VERDICTS: Mapping[str, Callable[[Rows], Mask]] = {
    "right": lambda rows: rows["correct"] >= 1.0,
    "wrong": lambda rows: rows["correct"] < 1.0,
    "ungraded": lambda rows: np.isnan(rows["correct"]),
    "without signal": lambda rows: rows["dropped"],
    "with tokens": lambda rows: rows["traced"] > 0,
    "with ratios": lambda rows: rows["traced"] > 1,
}
_KEPT_SEARCHES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What is looked for; an empty text and None let all pass.

    Attributes:
        kind: `iteration` or `heldout`.
        step: Iteration.
        source: Source of the task.
        stop: Why the rollout ended.
        verdict: One of `VERDICTS`.
        reward_min: Least reward.
        reward_max: Highest reward.
        text: Part of the rollout's record: its task, answer, truth or output; case is ignored.
        order: One of `ORDERS`.
    """

    kind: str = ""
    step: int | None = None
    source: str = ""
    stop: str = ""
    verdict: str = ""
    reward_min: float | None = None
    reward_max: float | None = None
    text: str = ""
    order: str = "newest"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A part of what was found.

    Attributes:
        places: File and row of each.
        total: How many were found in all.
        num_searched: Rollouts whose text has been looked at; asking again goes on.
        num_rollouts: Rollouts of the run that are indexed.
    """

    places: list[tuple[FileIndex, int]]
    total: int
    num_searched: int
    num_rollouts: int


class Finder:
    """Answers queries; texts that were searched for are remembered.

    Args:
        index: The run's rollouts.
        clock: Seconds from an arbitrary zero.
    """

    def __init__(self, index: RolloutIndex, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._index = index
        self._clock = clock
        self._searches: OrderedDict[str, _Search] = OrderedDict()

    def find(self, query: Query, *, start: int, limit: int, seconds: float = 1.0) -> Found:
        """Answer a query.

        Args:
            query: What is looked for.
            start: How many to pass over.
            limit: How many to return.
            seconds: Wall time to spend on looking through texts now.
        """
        files = list(reversed(self._index.files))
        num_rollouts = sum(len(file.rows) for file in files)
        masks = [_mask(file, query, self._index) for file in files]
        num_searched = num_rollouts
        if query.text:
            search = self._search(query.text)
            search.advance(files, until=self._clock() + seconds, clock=self._clock)
            num_searched = search.num_searched(files)
            masks = [mask & search.matches(file) for mask, file in zip(masks, files, strict=True)]
        rows = [np.flatnonzero(mask) for mask in masks]
        total = sum(map(len, rows))
        numbers = np.repeat(np.arange(len(files)), [len(row) for row in rows])
        flat = np.concatenate(rows) if rows else np.zeros(0, np.int64)
        key = ORDERS[query.order]
        if key is not None and total:
            values = np.concatenate([key(f.rows[row]) for f, row in zip(files, rows, strict=True)])
            order = np.argsort(values, kind="stable")[start : start + limit]
        else:
            order = np.arange(start, min(start + limit, total))
        places = [(files[numbers[i]], int(flat[i])) for i in order]
        return Found(
            places=places, total=total, num_searched=num_searched, num_rollouts=num_rollouts
        )

    def _search(self, text: str) -> "_Search":
        if text not in self._searches:
            self._searches[text] = _Search(text, self._index)
            if len(self._searches) > _KEPT_SEARCHES:
                self._searches.popitem(last=False)
        self._searches.move_to_end(text)
        return self._searches[text]


class _Search:
    """Which rollouts have a text, file by file; the lines are compared as they are stored."""

    def __init__(self, text: str, index: RolloutIndex) -> None:
        self._index = index
        self._needle = json.dumps(text, ensure_ascii=False)[1:-1].encode(errors="replace").lower()
        self._found: dict[tuple[str, tuple[int, int]], Mask] = {}

    def advance(self, files: list[FileIndex], *, until: float, clock: Callable[[], float]) -> None:
        """Look through files that were not looked through yet, one at least."""
        for file in files:
            key = (file.path.name, file.stamp)
            if key not in self._found:
                try:
                    self._found[key] = self._matches(file)
                except (OSError, RunFolderError):
                    # It was replaced meanwhile, and the index will have another in its place.
                    self._found[key] = np.zeros(len(file.rows), np.bool_)
                if clock() >= until:
                    return

    def matches(self, file: FileIndex) -> Mask:
        """Which rows have it; none of a file that was not looked through yet."""
        found = self._found.get((file.path.name, file.stamp))
        return np.zeros(len(file.rows), np.bool_) if found is None else found

    def num_searched(self, files: list[FileIndex]) -> int:
        """Rollouts that were looked through."""
        return sum(len(f.rows) for f in files if (f.path.name, f.stamp) in self._found)

    def _matches(self, file: FileIndex) -> Mask:
        found = np.zeros(len(file.rows), np.bool_)
        members = file.rows["member"]
        for member in range(len(file.members)):
            text = self._index.text(file, member).lower()
            if self._needle in text:
                for row in np.flatnonzero(members == member):
                    place = file.rows[row]
                    begin = int(place["offset"])
                    found[row] = self._needle in text[begin : begin + int(place["length"])]
        return found


def _mask(file: FileIndex, query: Query, index: RolloutIndex) -> Mask:
    mask = np.ones(len(file.rows), np.bool_)
    if query.kind not in ("", file.kind) or query.step not in (None, file.step):
        return ~mask
    for condition in _conditions(file.rows, query, index):
        mask &= condition
    return mask


def _conditions(rows: Rows, query: Query, index: RolloutIndex) -> Iterator[Mask]:
    if query.source:
        yield rows["source"] == _known(index.sources.texts, query.source)
    if query.stop:
        yield rows["stop"] == _known(index.stops.texts, query.stop)
    if query.verdict:
        yield VERDICTS[query.verdict](rows)
    if query.reward_min is not None:
        yield rows["reward"] >= np.float32(query.reward_min)
    if query.reward_max is not None:
        yield rows["reward"] <= np.float32(query.reward_max)


def _known(texts: list[str], text: str) -> int:
    return texts.index(text) if text in texts else -1
