"""Where a run's metrics and rollouts go, over all restarts of its learner."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

from cispo.config import TrackingConfig
from cispo.ports import Tracker
from cispo.spans import Spans
from cispo.tracking.conclude import conclude
from cispo.tracking.fanout import Fanout
from cispo.tracking.jsonl import JsonlTracker
from cispo.tracking.rollouts import RolloutFiles
from cispo.tracking.timeline import TimelineFile
from cispo.tracking.wandb import WandbTracker
from cispo.types import Group, Lesson, Metrics, RolloutKind
from launch.resume import Resume


class RunTrackers:
    """A tracker of a whole run: files that a restart shortens, W&B that goes on, and the console.

    Args:
        tracking: What is tracked.
        folder: The run's folder.
        resume: Where the run begins.
        name: Name of the run.
        config: Its configuration as plain values.
        console: Shows metrics.
        pieces: Texts of the policy's token ids; None where they are not known.

    Attributes:
        last_step: The last step that was logged.
        spans: What the run's parts report their work to.
    """

    def __init__(
        self,
        tracking: TrackingConfig,
        folder: Path,
        resume: Resume,
        *,
        name: str,
        config: Mapping[str, Any],
        console: Tracker,
        pieces: Callable[[Sequence[int]], Sequence[str]] | None = None,
    ) -> None:
        self._folder = folder
        self._name = name
        self._iterations: int | None = config.get("iterations")
        self._tracking = tracking
        self._pieces = pieces
        self.spans = Spans()
        self._jsonl = JsonlTracker(folder / "metrics.jsonl", keep_through=resume.keep_through)
        self._files = self._rollout_files(resume.keep_through)
        self._timeline = self._timeline_file(resume.keep_through)
        self._wandb: WandbTracker | None = None
        if tracking.wandb_mode != "disabled":
            self._wandb = WandbTracker(
                folder,
                mode=cast(Literal["offline", "online"], tracking.wandb_mode),
                project=tracking.project,
                name=name,
                config=config,
                run_id=resume.tracker_run_id,
            )
        self._console = console
        self._num_restarts: dict[int, int] = {}
        self._num_unlogged_restarts = 0
        self._num_failed_files = 0
        self.last_step = resume.iteration
        self._all = self._fanout()

    @property
    def wandb_run_id(self) -> str | None:
        """W&B's name of the run, if it has one."""
        return self._wandb.run_id if self._wandb else None

    def restart(self, resume: Resume) -> None:
        """Forget the steps after the checkpoint, which are done again, and count the restart."""
        through = resume.iteration if resume.checkpoint else -1
        self._jsonl.finish({})
        self._jsonl = JsonlTracker(self._folder / "metrics.jsonl", keep_through=through)
        self._num_failed_files += self._files.num_failures
        self._files = self._rollout_files(through)
        self._timeline = self._timeline_file(through)
        forgotten = [step for step in self._num_restarts if step > through]
        self._num_unlogged_restarts += 1 + sum(self._num_restarts.pop(step) for step in forgotten)
        self.last_step = resume.iteration
        self._all = self._fanout()

    def log(self, step: int, metrics: Metrics) -> None:
        """Log to each, with the restarts since the step before."""
        self._num_restarts[step], self._num_unlogged_restarts = self._num_unlogged_restarts, 0
        faults = {"faults/learner_restarts": float(self._num_restarts[step])}
        self._all.log(step, {**metrics, **faults})
        self.last_step = step

    def record(
        self,
        step: int,
        groups: Sequence[Group],
        *,
        kind: RolloutKind = RolloutKind.TRAINING,
        lessons: Sequence[Lesson] = (),
    ) -> None:
        """Record to each."""
        self._all.record(step, groups, kind=kind, lessons=lessons)

    def finish(self, summary: Mapping[str, object]) -> None:
        """Finish each."""
        self._all.finish(summary)

    def conclude(self) -> None:
        """Leave a summary and a report of what was logged, and close all.

        Raises:
            OSError: The run's folder cannot be written.
        """
        summary: dict[str, object] = {}
        try:
            if (self._folder / "metrics.jsonl").stat().st_size:
                summary = conclude(
                    self._folder,
                    name=self._name,
                    iterations=self._iterations,
                    failures=self._failures(),
                )
        finally:
            self.finish(summary)

    def _failures(self) -> dict[str, int]:
        return {
            "wandb_failures": self._wandb.num_failures if self._wandb else 0,
            "rollout_file_failures": self._num_failed_files + self._files.num_failures,
        }

    def _rollout_files(self, keep_through: int | None) -> RolloutFiles:
        return RolloutFiles(
            self._folder / "rollouts",
            every=self._tracking.rollouts_every,
            keep_through=keep_through,
            recorded_tokens=self._tracking.recorded_tokens,
            pieces=self._pieces,
        )

    def _timeline_file(self, keep_through: int | None) -> TimelineFile:
        path = self._folder / "timeline.jsonl"
        return TimelineFile(path, self.spans, keep_through=keep_through)

    def _fanout(self) -> Fanout:
        wandb: list[Tracker] = [self._wandb] if self._wandb else []
        return Fanout([self._jsonl, self._files, self._timeline, *wandb, self._console])
