"""Refuses a run whose checkpoints would not fit on its disk (stdlib only)."""

import json
import math
import shutil
from pathlib import Path

from cispo.checkpoint import checkpoint_bytes, complete_checkpoints
from cispo.config import LearnerConfig, PolicyConfig
from cispo.errors import CheckpointError, ConfigError

_ADAMW_BYTES = 12
"""Of a weight: float32 itself and both moments."""

_BYTES = {"float32": 4, "bfloat16": 2}


def check_disk_space(run_dir: str, *, one_checkpoint: int | None, count: int) -> None:
    """Refuse a disk on which the run's checkpoints have no room; those it has already count.

    Args:
        run_dir: The run's folder, which need not exist.
        one_checkpoint: Bytes of one, or None where they cannot be told.
        count: Checkpoints that lie there at once, the one being written included.

    Raises:
        ConfigError: With the numbers and what can be done.
    """
    if one_checkpoint is None:
        return
    folder = Path(run_dir)
    present = sum(_size(path) for path in complete_checkpoints(folder / "checkpoints"))
    needed = count * one_checkpoint - present
    existing = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise ConfigError(
            f"run_dir={run_dir}: its disk has {_gb(free)} free and checkpoints need "
            f"{_gb(needed)} more: {count} of about {_gb(one_checkpoint)} at once, the one being "
            "written included; make room, name a run_dir on another disk, or lower "
            "keep_checkpoints"
        )


def num_at_once(*, iterations: int, checkpoint_every: int, keep: int) -> int:
    """Checkpoints that lie on the disk at once while the last one is written."""
    written = 1 if checkpoint_every == 0 else math.ceil(iterations / checkpoint_every)
    return min(keep + 1, written)


def estimated_bytes(policy: PolicyConfig, learner: LearnerConfig) -> int | None:
    """What a checkpoint will take, or None where the policy is no folder of safetensors."""
    num_weights = _num_weights(Path(policy.path or "").expanduser())
    if num_weights is None:
        return None
    # At these stages every rank has all weights in the model's own type, and they are saved too.
    has_copy = learner.backend == "deepspeed" and learner.zero_stage in (1, 2)
    return num_weights * (_ADAMW_BYTES + (_BYTES[policy.dtype] if has_copy else 0))


def _num_weights(folder: Path) -> int | None:
    """Count the weights from the headers of the folder's safetensors."""
    files = list(folder.glob("*.safetensors")) if folder.is_dir() else []
    count = 0
    for file in files:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            try:
                header = json.loads(opened.read(length))
            except ValueError:
                return None
        count += sum(math.prod(e["shape"]) for name, e in header.items() if name != "__metadata__")
    return count or None


def _size(checkpoint: Path) -> int:
    try:
        return checkpoint_bytes(checkpoint)
    except CheckpointError:
        return 0


def _gb(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.3g} GB"
