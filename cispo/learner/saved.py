"""The note beside a saved learner that says what may restore it."""

import json
from pathlib import Path

from cispo.errors import CheckpointError

FILE_NAME = "learner.json"


def write_note(folder: Path, *, num_steps: int, **shape: str | int) -> None:
    """Write how many optimizer steps were taken, and the learner's shape, into the folder."""
    note = {"num_steps": num_steps, "shape": shape}
    (folder / FILE_NAME).write_text(json.dumps(note, indent=1) + "\n")


def read_note(folder: Path, **shape: str | int) -> int:
    """Return the number of optimizer steps behind a saved learner.

    Raises:
        CheckpointError: There is none, or it was saved by a learner of another shape.
    """
    path = folder / FILE_NAME
    if not path.is_file():
        raise CheckpointError(f"{folder} holds no saved learner: {FILE_NAME} is missing")
    note = json.loads(path.read_text())
    different = [
        f"{key} is {shape.get(key)} here and {note['shape'].get(key)} there"
        for key in sorted(shape.keys() | note["shape"].keys())
        if shape.get(key) != note["shape"].get(key)
    ]
    if different:
        raise CheckpointError(
            f"the learner in {folder} cannot be restored: {'; '.join(different)}; "
            "set the same values, or start from the exported policy instead"
        )
    return int(note["num_steps"])
