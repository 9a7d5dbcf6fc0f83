"""Atomic save and restore of everything that a run is (stdlib only)."""

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from cispo.errors import CheckpointError
from cispo.ports import Learner
from cispo.types import PolicyVersion

STATE_FILE = "run.json"
_FORMAT = 1
_NAME = re.compile(r"iteration-(\d{8})")
_UNFINISHED = "unfinished-"

FREE_KEYS = frozenset(
    {
        "name",
        "run_dir",
        "iterations",
        "resume",
        "checkpoint_every",
        "keep_checkpoints",
        "overwrite",
        "tracking",
        "cluster",
    }
)
"""Keys of the configuration that a resumed run may change: none of them alters what is learned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """Where a run stands, apart from the learner's weights and optimizer.

    Attributes:
        iteration: Iterations that are done.
        version: Policy version that was published last.
        next_task_index: Tasks that were consumed, which is where the stream goes on.
        config: The run's whole configuration as plain values, its seed included.
    """

    iteration: int
    version: PolicyVersion
    next_task_index: int
    config: Mapping[str, Any]


class Checkpoints:
    """Implements `cispo.ports.Checkpoints` in one folder.

    A checkpoint is written under another name, forced to disk, and renamed, so that a crash at any
    moment leaves the ones before it valid and never a half one under a real name.

    Args:
        folder: Where checkpoints are kept; made if need be.
        keep: Newest checkpoints that are kept, >= 1.
        config: The run's configuration as plain values, which every checkpoint records.
    """

    def __init__(self, folder: Path, *, keep: int, config: Mapping[str, Any]) -> None:
        if keep < 1:
            raise ValueError(f"keep={keep} checkpoints, must be >= 1")
        self._folder = folder
        self._keep = keep
        self._config = config

    async def save(
        self, *, iteration: int, version: PolicyVersion, next_task_index: int, learner: Learner
    ) -> None:
        """Write a checkpoint after `iteration` iterations, all of it or nothing."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for leftover in self._folder.glob(f"{_UNFINISHED}*"):
            shutil.rmtree(leftover)
        final = self._folder / f"iteration-{iteration:08d}"
        unfinished = self._folder / f"{_UNFINISHED}{final.name}"
        unfinished.mkdir()
        await learner.save(unfinished)
        state = RunState(
            iteration=iteration,
            version=version,
            next_task_index=next_task_index,
            config=self._config,
        )
        _write_state(unfinished, state)
        _force_to_disk(unfinished)
        replaced = self._folder / f"{_UNFINISHED}replaced-{final.name}"
        if final.exists():
            final.rename(replaced)
        unfinished.rename(final)
        _force_entry(self._folder)
        for obsolete in self._obsolete(final):
            shutil.rmtree(obsolete)
        if replaced.exists():
            shutil.rmtree(replaced)

    def _obsolete(self, newest: Path) -> list[Path]:
        """All but the last `keep` up to `newest`, and those after it.

        After it there are some where the run was resumed from an earlier one: they belong to a
        course that it has left, and `resume=` on the folder would return to it.
        """
        found = complete_checkpoints(self._folder)
        position = found.index(newest)
        return [*found[: max(0, position + 1 - self._keep)], *found[position + 1 :]]


def complete_checkpoints(folder: Path) -> list[Path]:
    """All checkpoints of a folder, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if _NAME.fullmatch(p.name) and p.is_dir())


def find_checkpoint(path: Path) -> Path:
    """Resolve what a user gave to `resume=`: a checkpoint, or a folder that has some.

    Args:
        path: A checkpoint, or a run's folder or its `checkpoints`, of which the newest is meant.

    Raises:
        CheckpointError: There is none.
    """
    if (path / STATE_FILE).is_file():
        return path
    for folder in (path, path / "checkpoints"):
        if found := complete_checkpoints(folder):
            return found[-1]
    if not path.exists():
        raise CheckpointError(f"resume={path}: there is no such folder")
    raise CheckpointError(f"resume={path}: holds no complete checkpoint")


def load_state(checkpoint: Path) -> RunState:
    """Read and check a checkpoint; the learner's part is for `Learner.restore`.

    Raises:
        CheckpointError: It is incomplete, damaged, or of another format.
    """
    path = checkpoint / STATE_FILE
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise CheckpointError(f"{path} is not a checkpoint of this version of the framework")
    for name, size in content["files"].items():
        file = checkpoint / name
        found = file.stat().st_size if file.is_file() else None
        if found != size:
            raise CheckpointError(
                f"{checkpoint} is incomplete: {name} "
                + ("is missing" if found is None else f"has {found} bytes instead of {size}")
            )
    return RunState(**{field.name: content["state"][field.name] for field in fields(RunState)})


def refuse_other_config(state: RunState, config: Mapping[str, Any]) -> None:
    """Check that a run with this configuration may continue the checkpoint.

    Raises:
        CheckpointError: Keys outside `FREE_KEYS` differ; the message names them with both values.
    """
    ours = _flat(json.loads(json.dumps(config)))
    theirs = _flat(state.config)
    different = [
        f"{key} is {ours.get(key)!r}, the checkpoint has {theirs.get(key)!r}"
        for key in sorted(ours.keys() | theirs.keys())
        if key.split(".")[0] not in FREE_KEYS and ours.get(key) != theirs.get(key)
    ]
    if different:
        raise CheckpointError(
            "this run cannot continue the checkpoint, its configuration differs: "
            + "; ".join(different)
        )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _write_state(folder: Path, state: RunState) -> None:
    sizes = {
        str(file.relative_to(folder)): file.stat().st_size
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
    content = {"format": _FORMAT, "state": asdict(state), "files": sizes}
    (folder / STATE_FILE).write_text(json.dumps(content, indent=1) + "\n")


def _force_to_disk(folder: Path) -> None:
    for path in folder.rglob("*"):
        _force_entry(path)
    _force_entry(folder)


def _force_entry(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
