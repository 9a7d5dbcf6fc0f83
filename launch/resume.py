"""Where a run begins: at its start, or after a checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cispo.checkpoint import (
    checkpoint_bytes,
    find_checkpoint,
    load_groups,
    refuse_other_config,
)
from cispo.checkpoint.finding import converted_folder
from cispo.config import LearnerConfig
from cispo.errors import CheckpointError
from cispo.learner.saved import describe_folding, read_any_note
from cispo.types import Group


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """What is already behind the run; all zero for a fresh one.

    Attributes:
        checkpoint: Folder that the learner restores, or None.
        iteration: Iterations that are done.
        next_task_index: Tasks that were consumed.
        published_before: Versions published before this process; its first publish repeats the
            checkpoint's.
        in_flight: Groups that were sampled and not yet learned from.
        tracker_run_id: The W&B run that the metrics belong to.
        schedules: State of the run's schedules, by name.
        skipped: What is wrong with each newer checkpoint, which was passed over.
        num_bytes: Size of the checkpoint.
    """

    checkpoint: Path | None = None
    iteration: int = 0
    next_task_index: int = 0
    published_before: int = 0
    in_flight: tuple[Group, ...] = ()
    tracker_run_id: str | None = None
    schedules: Mapping[str, Any] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()
    num_bytes: int = 0

    def notices(self, learner: LearnerConfig) -> list[str]:
        """Say where the run goes on, what was passed over and what has to be converted, in lines.

        Raises:
            CheckpointError: The checkpoint has no learner.
        """
        if self.checkpoint is None:
            return []
        taken_up = f" with {len(self.in_flight)} groups in flight" if self.in_flight else ""
        lines = [
            *(f"passed over: {broken}" for broken in self.skipped),
            f"resuming after iteration {self.iteration} from {self.checkpoint}{taken_up}",
        ]
        if saver := self.other_saver(learner):
            lines.append(
                f"{saver} saved this checkpoint: it is converted once, into "
                f"{converted_folder(self.checkpoint)}, for {_described(learner)}; the run goes on "
                "with the same weights and moments, and adds them up in another order"
            )
        return lines

    def other_saver(self, learner: LearnerConfig) -> str | None:
        """Name the learner that saved the checkpoint, where this one has to read a conversion.

        Raises:
            CheckpointError: The checkpoint has no learner.
        """
        if self.checkpoint is None:
            return None
        saver = read_any_note(self.checkpoint).saver
        return saver if saver != _described(learner) else None

    @property
    def keep_through(self) -> int | None:
        """The last step that an existing metrics file may keep; None for a fresh run."""
        return self.iteration if self.checkpoint else None

    def continues(self, run_dir: str) -> bool:
        """Whether the checkpoint lies in the run's own folder."""
        return self.checkpoint is not None and self.checkpoint.resolve().is_relative_to(
            Path(run_dir).resolve()
        )


def _described(learner: LearnerConfig) -> str:
    return describe_folding(
        backend=learner.backend, num_ranks=learner.num_ranks, zero_stage=learner.zero_stage
    )


def read_resume(resume: str | None, config: Mapping[str, Any]) -> Resume:
    """Find and check the checkpoint that `resume=` names.

    Raises:
        CheckpointError: There is none that is sound, or the configuration differs from its run's.
    """
    if resume is None:
        return Resume()
    try:
        found = find_checkpoint(Path(resume))
    except CheckpointError as error:
        raise CheckpointError(f"resume={error}") from error
    state = found.state
    refuse_other_config(state, config)
    return Resume(
        checkpoint=found.path,
        iteration=state.iteration,
        next_task_index=state.next_task_index,
        published_before=state.version - 1,
        in_flight=load_groups(found.path),
        tracker_run_id=state.tracker_run_id,
        schedules=state.schedules,
        skipped=found.skipped,
        num_bytes=checkpoint_bytes(found.path),
    )
