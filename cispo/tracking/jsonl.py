"""Writes metrics.jsonl, one object a step, which reports and resumes rely on (stdlib only)."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from cispo.errors import ConfigError, RunFolderError
from cispo.tracking.history import shorten
from cispo.types import Group, Lesson, Metrics, RolloutKind


class JsonlTracker:
    """Appends a flushed line for every step; floats are written exactly.

    Args:
        path: The file; its folder exists.
        keep_through: On a resume, the checkpoint's iteration: later lines are removed, so that no
            step appears twice. None for a fresh run.

    Raises:
        ConfigError: A fresh run would overwrite an earlier one.
    """

    def __init__(self, path: Path, *, keep_through: int | None = None) -> None:
        if keep_through is None and path.exists():
            raise ConfigError(
                f"run_dir={path.parent}: holds the {path.name} of an earlier run; choose another "
                f"run_dir, or continue that run with resume={path.parent}"
            )
        if keep_through is not None:
            shorten(path, through=keep_through)
        self._path = path
        self._file = path.open("ab", buffering=0)

    def log(self, step: int, metrics: Metrics) -> None:
        """Append the step's line.

        Raises:
            RunFolderError: It cannot be written whole: without it the run could not be continued.
        """
        unwritten = line(step, metrics).encode()
        try:
            while unwritten:
                unwritten = unwritten[self._file.write(unwritten) :]
        except OSError as error:
            raise RunFolderError(
                f"{self._path}: the metrics of step {step} cannot be written "
                f"({error.strerror or error}); make room, then continue with "
                f"resume={self._path.parent}"
            ) from error

    def record(
        self,
        step: int,
        groups: Sequence[Group],
        *,
        kind: RolloutKind = RolloutKind.TRAINING,
        lessons: Sequence[Lesson] = (),
    ) -> None:
        """Rollouts have files of their own."""

    def finish(self, summary: Mapping[str, object]) -> None:
        """Close the file."""
        self._file.close()


def line(step: int, metrics: Metrics) -> str:
    """The JSON line of a step: `repr` of each float, so that equal lines mean equal bits."""
    return json.dumps({"step": step, **metrics}) + "\n"
