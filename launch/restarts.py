"""Where a run goes on after its learner was lost, and how often it may."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cispo.checkpoint import complete_checkpoints
from cispo.errors import CheckpointError, LearnerError
from launch.resume import Resume, read_resume


class Restarts:
    """Finds the newest sound checkpoint that this process has written, again and again.

    Args:
        checkpoints: The run's checkpoints.
        first: Where this process began, and goes on while there is no newer checkpoint.
        config: The run's configuration as plain values.
        max_restarts: In a row, without a new checkpoint in between.
        say: Tells the user, in a line.

    Attributes:
        num_restarts: So far, all together.
    """

    def __init__(
        self,
        checkpoints: Path,
        first: Resume,
        config: Mapping[str, Any],
        *,
        max_restarts: int,
        say: Callable[[str], None],
    ) -> None:
        self._checkpoints = checkpoints
        self._first = first
        self._config = config
        self._max_restarts = max_restarts
        self._say = say
        # Those of an earlier process may belong to a course that this one has left.
        self._others = set(self._identities())
        self._iteration = first.iteration
        self._num_in_row = 0
        self.num_restarts = 0

    def after(self, error: LearnerError, *, iteration: int) -> Resume:
        """Return where to go on after the learner was lost in an iteration.

        Raises:
            LearnerError: It was lost too often in a row.
        """
        resume = self._newest()
        if resume.iteration > self._iteration:
            self._iteration, self._num_in_row = resume.iteration, 0
        place = str(resume.checkpoint) if resume.checkpoint else "the start, without a checkpoint"
        if self._num_in_row == self._max_restarts:
            raise LearnerError(
                f"{error}, in iteration {iteration}, after {self._num_in_row} restarts from "
                f"{place}; max_restarts={self._max_restarts}. When the cause is gone, continue "
                f"with resume={self._checkpoints.parent}"
            ) from error
        self._num_in_row += 1
        self.num_restarts += 1
        self._say(
            f"{error}, in iteration {iteration}; restart {self._num_in_row} of at most "
            f"{self._max_restarts} in a row, from {place}"
        )
        return resume

    def _newest(self) -> Resume:
        for identity, path in reversed(self._identities().items()):
            if identity in self._others:
                continue
            try:
                return read_resume(str(path), self._config)
            except CheckpointError as broken:
                self._say(f"passed over: {broken}")
        return self._first

    def _identities(self) -> dict[tuple[str, int], Path]:
        """Checkpoints by what tells two writes of the same iteration apart, oldest first."""
        return {
            (path.name, path.stat().st_mtime_ns): path
            for path in complete_checkpoints(self._checkpoints)
        }
