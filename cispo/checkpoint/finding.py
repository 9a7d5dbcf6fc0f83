"""Finds the checkpoint to go on from, and says which newer ones are broken (stdlib only)."""

import re
from dataclasses import dataclass
from pathlib import Path

from cispo.checkpoint.manifest import STATE_FILE, load_state
from cispo.checkpoint.state import RunState
from cispo.errors import CheckpointError

UNFINISHED = "unfinished-"
CONVERTED = "-universal"
"""Ends the name of the folder beside a checkpoint that holds its learner by parameter."""

_NAME = re.compile(r"iteration-(\d{8})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A checkpoint whose checksums agree.

    Attributes:
        path: Its folder.
        state: What its manifest holds.
        skipped: What is wrong with each newer one, newest first.
    """

    path: Path
    state: RunState
    skipped: tuple[str, ...] = ()


def converted_folder(checkpoint: Path) -> Path:
    """Where a checkpoint's learner lies after it was converted for another kind of learner."""
    return checkpoint.with_name(f"{checkpoint.name}{CONVERTED}")


def checkpoint_name(iteration: int) -> str:
    """Name of the folder of the checkpoint after `iteration` iterations."""
    return f"iteration-{iteration:08d}"


def complete_checkpoints(folder: Path) -> list[Path]:
    """All checkpoints of a folder that were written to their end, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if _NAME.fullmatch(p.name) and p.is_dir())


def find_checkpoint(path: Path) -> Found:
    """Resolve what a user named as a checkpoint, and verify all of it.

    Args:
        path: A checkpoint, which must be sound, or a run's folder or its `checkpoints`, of which
            the newest sound one is meant.

    Raises:
        CheckpointError: There is none, or all are broken; the message says what is wrong with each.
    """
    if not path.exists():
        raise CheckpointError(f"{path}: there is no such folder")
    if _NAME.fullmatch(path.resolve().name) or (path / STATE_FILE).is_file():
        return Found(path=path, state=load_state(path))
    if path.name.startswith(UNFINISHED):
        raise CheckpointError(f"{path}: was never finished; name another checkpoint")
    for folder in (path, path / "checkpoints"):
        if found := complete_checkpoints(folder):
            return _newest_sound(found, _unfinished(folder), given=path)
    unfinished = [*_unfinished(path), *_unfinished(path / "checkpoints")]
    also = "".join(f"; {p} was never finished" for p in unfinished)
    raise CheckpointError(f"{path}: holds no complete checkpoint{also}")


def _newest_sound(complete: list[Path], unfinished: list[Path], *, given: Path) -> Found:
    skipped = [
        f"{path} was never finished"
        for path in reversed(unfinished)
        if path.name.removeprefix(UNFINISHED) > complete[-1].name
    ]
    for path in reversed(complete):
        try:
            return Found(path=path, state=load_state(path), skipped=tuple(skipped))
        except CheckpointError as error:
            skipped.append(str(error))
    raise CheckpointError(f"{given}: no checkpoint can be used: {'; '.join(skipped)}")


def _unfinished(folder: Path) -> list[Path]:
    return sorted(
        p for p in folder.glob(f"{UNFINISHED}*") if _NAME.fullmatch(p.name.removeprefix(UNFINISHED))
    )
