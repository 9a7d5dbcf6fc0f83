"""Where a run begins: at its start, or after a checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cispo.checkpoint import find_checkpoint, load_state, refuse_other_config


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """What is already behind the run; all zero for a fresh one.

    Attributes:
        checkpoint: Folder that the learner restores, or None.
        iteration: Iterations that are done.
        next_task_index: Tasks that were consumed.
        published_before: Versions published before this process; its first publish repeats the
            checkpoint's.
    """

    checkpoint: Path | None = None
    iteration: int = 0
    next_task_index: int = 0
    published_before: int = 0

    @property
    def keep_through(self) -> int | None:
        """The last step that an existing metrics file may keep; None for a fresh run."""
        return self.iteration if self.checkpoint else None

    def continues(self, run_dir: str) -> bool:
        """Whether the checkpoint lies in the run's own folder."""
        return self.checkpoint is not None and self.checkpoint.resolve().is_relative_to(
            Path(run_dir).resolve()
        )


def read_resume(resume: str | None, config: Mapping[str, Any]) -> Resume:
    """Find and check the checkpoint that `resume=` names.

    Raises:
        CheckpointError: There is none, it is damaged, or the configuration differs from its run's.
    """
    if resume is None:
        return Resume()
    checkpoint = find_checkpoint(Path(resume))
    state = load_state(checkpoint)
    refuse_other_config(state, config)
    return Resume(
        checkpoint=checkpoint,
        iteration=state.iteration,
        next_task_index=state.next_task_index,
        published_before=state.version - 1,
    )
