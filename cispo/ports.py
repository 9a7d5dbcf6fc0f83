"""The protocols that the loop drives; who implements one does not inherit from it (stdlib only)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from cispo.types import (
    Group,
    Lesson,
    Metrics,
    PolicyVersion,
    Rollout,
    RolloutKind,
    Sample,
    Task,
    Verdict,
)


class TaskSource(Protocol):
    """An endless task sequence, a pure function of the index: a resume needs one number."""

    def task(self, index: int) -> Task:
        """Return the task at a position in the run, from 0."""


class RolloutEngine(Protocol):
    """Samples from the behaviour policy mu."""

    async def sample(self, task: Task, count: int, *, seed: int) -> Sequence[Rollout]:
        """Sample `count` rollouts; the same seed, task and weights give the same tokens.

        Raises:
            RolloutError: No engine could produce them.
        """


class Meter(Protocol):
    """Counts what a part does, for the log."""

    async def lap(self) -> Metrics:
        """Return what it did since the last lap; an actor that is lost is left out."""


class Verifier(Protocol):
    """Judges a rollout."""

    async def grade(self, task: Task, rollout: Rollout) -> Verdict:
        """Judge one rollout; a lost sandbox or worker is an `Ungraded`, never an exception."""


class GroupStream(Protocol):
    """Groups for learning, in the order in which their tasks started."""

    @property
    def next_task_index(self) -> int:
        """Index of the first task that no taken iteration used up: where a resume goes on."""

    @property
    def dropped(self) -> Mapping[str, Sequence[Group]]:
        """The groups without signal that the last `take` passed over, by reason."""

    @property
    def sampling_seconds(self) -> float:
        """Time between the last two takes in which at least one task was being sampled."""

    @property
    def in_flight(self) -> Sequence[Group]:
        """Groups that are sampled and not taken, which a resume would otherwise sample again."""

    async def take(self) -> Sequence[Group]:
        """Wait for the groups of one iteration.

        Raises:
            NoSignal: Too many groups in a row carried no signal.
            UngradedError: Too many verdicts of the iteration are missing.
            RolloutError: A task could not be sampled.
        """

    def release(self) -> None:
        """Allow the sampling of one more iteration: new weights have been published."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class Schedule(Protocol):
    """Something that changes while a run goes on: a length window, a curriculum."""

    def observe(self, groups: Sequence[Group]) -> Metrics:
        """Take note of an iteration's groups, dropped ones included, in the order of their tasks.

        What is submitted from now on follows the change, and the metrics of the iteration tell it.
        """

    def state(self) -> Mapping[str, Any]:
        """What a resume needs, as plain JSON values."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state; from the beginning where it is empty."""


class Learner(Protocol):
    """Owns the policy pi and its optimizer."""

    async def step(self, samples: Sequence[Sample]) -> Metrics:
        """Take one optimizer step on the samples.

        Raises:
            DivergedError: A number is not finite; the weights are unchanged.
        """

    async def save(self, folder: Path) -> None:
        """Write weights, optimizer and schedule so that training can go on from them.

        Raises:
            CheckpointError: The disk is full or fails; the learner is unharmed.
        """

    async def restore(self, folder: Path) -> None:
        """Read what `save` wrote."""


class Checkpoints(Protocol):
    """Keeps what a run needs to go on; at the end of its block all of it is written."""

    async def save(
        self,
        *,
        iteration: int,
        version: PolicyVersion,
        next_task_index: int,
        learner: Learner,
        in_flight: Sequence[Group] = (),
    ) -> None:
        """Begin to write a checkpoint after `iteration` iterations, all of it or nothing.

        It holds the learner as it is now, whatever it is asked for next.
        """

    def lap(self) -> Metrics:
        """Return how many could not be written, and how long a write took that has ended."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class WeightSync(Protocol):
    """Hands the learner's weights to the rollout engine."""

    async def publish(self) -> PolicyVersion:
        """Copy the weights, verify them on arrival, and return the new version.

        Raises:
            WeightSyncError: What arrived is not what was sent.
        """


class Evaluator(Protocol):
    """Measures the policy on held-out tasks."""

    @property
    def groups(self) -> Sequence[Group]:
        """What the last evaluation sampled, with its verdicts."""

    async def evaluate(self) -> Metrics:
        """Return avg@k and pass@k over all held-out tasks and by source."""


class Tracker(Protocol):
    """Records metrics."""

    def log(self, step: int, metrics: Metrics) -> None:
        """Record the metrics of one iteration; step 0 is before the first."""

    def record(
        self,
        step: int,
        groups: Sequence[Group],
        *,
        kind: RolloutKind = RolloutKind.TRAINING,
        lessons: Sequence[Lesson] = (),
    ) -> None:
        """Record rollouts: those of one iteration, dropped groups included, or of an evaluation.

        `lessons` are what was learned from, where anything was.
        """

    def finish(self, summary: Mapping[str, object]) -> None:
        """Record the run's summary and close."""


class Progress(Protocol):
    """Shows what the run does now and what it waits for."""

    def start(self, phase: str, total: int) -> None:
        """Begin a phase of `total` units."""

    def advance(self, phase: str, count: int = 1) -> None:
        """Count units as done."""

    def waiting(self, phase: str, what: str) -> None:
        """Name what the phase waits for, with its age."""

    def finish(self, phase: str) -> None:
        """End a phase."""
