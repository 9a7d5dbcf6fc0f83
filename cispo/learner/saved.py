"""The note beside a saved learner that says what may restore it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from cispo.disk import why_not_written
from cispo.errors import CheckpointError

FILE_NAME = "learner.json"
FOLDING = frozenset({"backend", "zero_stage", "num_ranks"})
"""Of a learner's shape, what says only how its state is spread over processes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """What a saved learner is.

    Attributes:
        num_steps: Optimizer steps behind it.
        shape: Its backend, dtype, ZeRO stage and number of ranks, as far as it has them.
    """

    num_steps: int
    shape: Mapping[str, str | int]

    @property
    def saver(self) -> str:
        """The learner that saved, in words of the configuration."""
        return describe_folding(**{key: self.shape[key] for key in FOLDING & self.shape.keys()})


def describe_folding(
    *, backend: str | int, num_ranks: str | int = 1, zero_stage: str | int = 0
) -> str:
    """Name a learner by what says only how its state is spread, in words of the configuration."""
    if backend == "local":
        return "learner.backend=local"
    return (
        f"learner.backend=deepspeed learner.num_ranks={num_ranks} learner.zero_stage={zero_stage}"
    )


def write_note(folder: Path, *, num_steps: int, **shape: str | int) -> str | None:
    """Write the note into the folder; return why it could not be written, or None."""
    note = Note(num_steps=num_steps, shape=shape)
    try:
        (folder / FILE_NAME).write_text(json.dumps(asdict(note), indent=1) + "\n")
    except OSError as error:
        return f"{FILE_NAME}: {why_not_written(error, folder)}"
    return None


def read_any_note(folder: Path) -> Note:
    """Read the note of a saved learner of any shape.

    Raises:
        CheckpointError: There is none.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        raise CheckpointError(f"{folder} holds no saved learner: {FILE_NAME} is missing")
    return Note(**json.loads(path.read_text()))


def read_note(folder: Path, **shape: str | int) -> Note:
    """Read the note of a saved learner that a learner of this shape can restore.

    Its `FOLDING` may differ: then it can after a conversion.

    Raises:
        CheckpointError: There is none, or it was saved by a learner of another shape.
    """
    note = read_any_note(folder)
    different = [
        f"{key} is {shape.get(key)} here and {note.shape.get(key)} there"
        for key in sorted((shape.keys() | note.shape.keys()) - FOLDING)
        if shape.get(key) != note.shape.get(key)
    ]
    if different:
        raise CheckpointError(
            f"the learner in {folder} cannot be restored: {'; '.join(different)}; "
            "set the same values, or start from the exported policy instead"
        )
    return note
