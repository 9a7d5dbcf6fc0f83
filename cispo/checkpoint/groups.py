"""Groups that were sampled and not yet learned from, as one file of plain arrays.

numpy's own format without pickled objects, so that reading a checkpoint runs no code of its writer.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cispo.errors import CheckpointError
from cispo.types import (
    Graded,
    Group,
    Message,
    PolicyVersion,
    Rollout,
    StopReason,
    Task,
    Ungraded,
    Verdict,
)

GROUPS_FILE = "groups.npz"
_FORMAT = 2
_ARRAYS = ("token_ids", "action_mask", "behaviour_logprobs", "routed_experts")


def save_groups(folder: Path, groups: Sequence[Group]) -> None:
    """Write the groups into the folder; nothing where there are none.

    Raises:
        OSError: The file cannot be written.
    """
    if not groups:
        return
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    plain = {"format": _FORMAT, "groups": [_plain_group(group) for group in groups]}
    arrays = {
        "plain": np.frombuffer(json.dumps(plain).encode(), np.uint8),
        "token_ids": np.concatenate([np.asarray(r.token_ids, np.int32) for r in rollouts]),
        "action_mask": np.concatenate([np.asarray(r.action_mask, np.bool_) for r in rollouts]),
        "behaviour_logprobs": _narrowed([r.behaviour_logprobs for r in rollouts]),
        "routed_experts": np.frombuffer(
            b"".join(r.routed_experts or b"" for r in rollouts), np.uint8
        ),
    }
    with (folder / GROUPS_FILE).open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def load_groups(checkpoint: Path) -> tuple[Group, ...]:
    """Read what `save_groups` wrote: the same groups to the last bit, in the order of their tasks.

    Raises:
        CheckpointError: The file is of another format.
    """
    path = checkpoint / GROUPS_FILE
    if not path.is_file():
        return ()
    try:
        with np.load(path, allow_pickle=False) as stored:
            plain = json.loads(stored["plain"].tobytes())
            arrays = {name: stored[name] for name in _ARRAYS}
        if plain["format"] != _FORMAT:
            raise CheckpointError(f"{path} is of format {plain['format']}, not {_FORMAT}")
        reader = _Reader(arrays)
        return tuple(_group(entry, reader) for entry in plain["groups"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error!r}") from error


class _Reader:
    """Hands out the arrays of one rollout after another."""

    def __init__(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        self._arrays = arrays
        self._places = dict.fromkeys(arrays, 0)

    def take(self, name: str, count: int) -> npt.NDArray[Any]:
        """The next `count` values of an array.

        Raises:
            ValueError: There are fewer.
        """
        start = self._places[name]
        self._places[name] += count
        values = self._arrays[name][start : start + count]
        if len(values) != count:
            raise ValueError(f"{name} ends early")
        return values


def _narrowed(values: Iterable[Sequence[float]]) -> npt.NDArray[np.floating[Any]]:
    """All values as float32 where that loses nothing, which is so for an engine's numbers."""
    wide = np.concatenate([np.asarray(part, np.float64) for part in values])
    with np.errstate(over="ignore"):
        narrow = wide.astype(np.float32)
    return narrow if np.array_equal(narrow.astype(np.float64), wide, equal_nan=True) else wide


def _plain_group(group: Group) -> dict[str, Any]:
    return {
        "index": group.index,
        "task": asdict(group.task),
        "rollouts": [_plain_rollout(rollout) for rollout in group.rollouts],
        "verdicts": [asdict(verdict) for verdict in group.verdicts],
    }


def _plain_rollout(rollout: Rollout) -> dict[str, Any]:
    routes = rollout.routed_experts
    return {
        "task_id": rollout.task_id,
        "num_tokens": len(rollout.token_ids),
        "num_route_bytes": None if routes is None else len(routes),
        "text": rollout.text,
        "stop_reason": rollout.stop_reason,
        "oldest_version": rollout.oldest_version,
        "newest_version": rollout.newest_version,
        "version_runs": rollout.version_runs,
        "submission": rollout.submission,
        "token_budget": rollout.token_budget,
    }


def _group(entry: Mapping[str, Any], reader: _Reader) -> Group:
    messages = tuple(Message(**message) for message in entry["task"]["messages"])
    return Group(
        index=entry["index"],
        task=Task(**{**entry["task"], "messages": messages}),
        rollouts=tuple(_rollout(rollout, reader) for rollout in entry["rollouts"]),
        verdicts=tuple(_verdict(verdict) for verdict in entry["verdicts"]),
    )


def _rollout(entry: Mapping[str, Any], reader: _Reader) -> Rollout:
    count, routes = entry["num_tokens"], entry["num_route_bytes"]
    return Rollout(
        task_id=entry["task_id"],
        token_ids=reader.take("token_ids", count).tolist(),
        action_mask=reader.take("action_mask", count).tolist(),
        behaviour_logprobs=reader.take("behaviour_logprobs", count).tolist(),
        text=entry["text"],
        stop_reason=StopReason(entry["stop_reason"]),
        oldest_version=PolicyVersion(entry["oldest_version"]),
        newest_version=PolicyVersion(entry["newest_version"]),
        version_runs=tuple((version, count) for version, count in entry["version_runs"]),
        submission=entry["submission"],
        routed_experts=None if routes is None else reader.take("routed_experts", routes).tobytes(),
        token_budget=entry["token_budget"],
    )


def _verdict(entry: Mapping[str, Any]) -> Verdict:
    return Ungraded(**entry) if "cause" in entry else Graded(**entry)
