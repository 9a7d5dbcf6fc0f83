"""What the watch page is told, as JSON values."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from cispo.tracking.compute import ComputeCurve
from cispo.watch.file_index import FileIndex
from cispo.watch.panels import drawn, panels
from cispo.watch.query import ORDERS, VERDICTS, Found, Query
from cispo.watch.run_view import RunView

_PREVIEW = 240
"""Characters of an answer's end that a list shows."""


def run_answer(view: RunView) -> dict[str, Any]:
    """The headline, and what can be filtered by."""
    columns, index = view.columns, view.index
    files = index.files
    return {
        "name": view.name,
        "revision": view.revision,
        "is_over": view.is_over,
        "last_step": columns.last_step,
        "iterations": view.iterations,
        "health": asdict(view.health()),
        "scaling": _scaling(view.compute_curve()),
        "rollouts": {
            "num": sum(len(file.rows) for file in files),
            "num_waiting_files": index.num_waiting,
            "broken": index.broken,
            "steps": {
                kind: [file.step for file in files if file.kind == kind]
                for kind in ("iteration", "heldout")
            },
            "sources": sorted(index.sources.texts),
            "stops": sorted(index.stops.texts),
            "verdicts": list(VERDICTS),
            "orders": list(ORDERS),
        },
    }


def curves_answer(view: RunView) -> dict[str, Any]:
    """All panels with their points."""
    columns = view.columns
    return {"panels": [drawn(panel, columns) for panel in panels(columns)]}


def lanes_answer(view: RunView, first: int, last: int) -> dict[str, Any]:
    """Who was busy in some iterations."""
    lanes, is_recorded = view.lanes(first, last)
    return {"first": first, "last": last, "is_recorded": is_recorded, "lanes": lanes}


def groups_answer(file: FileIndex, sources: list[str]) -> dict[str, Any]:
    """The groups of a file with what became of each member."""
    groups: dict[int, dict[str, Any]] = {}
    for row, place in enumerate(file.rows.tolist()):
        known = dict(zip(file.rows.dtype.names or (), place, strict=True))
        group = groups.setdefault(
            known["group"],
            {
                "group": known["group"],
                "source": sources[known["source"]],
                "dropped": known["dropped"],
                "members": [],
            },
        )
        group["members"].append(
            {name: _finite(known[name]) for name in ("reward", "correct", "tokens", "traced")}
            | {"row": row}
        )
    return {"file": file.path.name, "step": file.step, "groups": list(groups.values())}


def rollouts_answer(view: RunView, query: Query, *, start: int, limit: int) -> dict[str, Any]:
    """A page of what a query finds."""
    found: Found = view.finder.find(query, start=start, limit=limit)
    return {
        "total": found.total,
        "start": start,
        "num_searched": found.num_searched,
        "num_rollouts": found.num_rollouts,
        "rollouts": [_listed(view, file, row) for file, row in found.places],
    }


def rollout_answer(view: RunView, file: FileIndex, row: int) -> dict[str, Any]:
    """One rollout with all that was recorded, and its group."""
    group = file.rows["group"][row]
    members = np.flatnonzero(file.rows["group"] == group)
    return {
        "file": file.path.name,
        "row": row,
        "step": file.step,
        "rollout": view.index.entry(file, row),
        "members": [
            {"row": int(i)}
            | {name: _finite(file.rows[name][i].item()) for name in ("reward", "correct", "tokens")}
            for i in members
        ],
    }


def dumps(values: object) -> str:
    """JSON that every browser reads: what is not finite is null."""
    return json.dumps(_clean(values), ensure_ascii=True, allow_nan=False)


def _listed(view: RunView, file: FileIndex, row: int) -> dict[str, Any]:
    entry = view.index.entry(file, row)
    kept = ("group", "member", "task_id", "source", "reward", "parts", "ungraded", "stop_reason")
    return {
        "file": file.path.name,
        "row": row,
        "step": file.step,
        "kind": file.kind,
        "action_tokens": entry["action_tokens"],
        "traced": int(file.rows["traced"][row]),
        "preview": entry["response"][-_PREVIEW:],
        **{name: entry[name] for name in kept},
    }


def _scaling(curve: ComputeCurve | None) -> Mapping[str, Any] | None:
    if curve is None:
        return None
    return {"metric": curve.metric, **asdict(curve.fit)}


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _clean(values: Any) -> Any:
    match values:
        case dict():
            return {key: _clean(value) for key, value in values.items()}
        case list() | tuple():
            return [_clean(value) for value in values]
        case _:
            return _finite(values)
