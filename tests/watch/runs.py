"""Small runs on disk for the tests of the watch page."""

from collections.abc import Sequence
from pathlib import Path

from cispo.tracking.jsonl import JsonlTracker
from cispo.tracking.rollouts import RolloutFiles
from cispo.types import Group, Lesson, RolloutKind, Sample
from tests.fakes import make_group


def write_rollouts(
    folder: Path,
    step: int,
    groups: Sequence[Group],
    *,
    kind: RolloutKind = RolloutKind.TRAINING,
    recorded_tokens: int = 10_000,
    lessons: Sequence[Lesson] = (),
) -> None:
    """Write a file of rollouts into a run's folder."""
    files = RolloutFiles(folder / "rollouts", every=1, recorded_tokens=recorded_tokens)
    files.record(step, groups, kind=kind, lessons=lessons)


def lessons_of(group: Group, logprob: float) -> list[Lesson]:
    """What was learned from a group: advantages of +-1 around its mean, one log pi throughout."""
    return [
        Lesson(
            sample=Sample(
                rollout=rollout, advantage=2 * verdict.reward - 1, group_index=group.index
            ),
            logprobs=[logprob * sampled for sampled in rollout.action_mask],
        )
        for rollout, verdict in group.graded
    ]


def small_run(folder: Path, *, steps: int = 3) -> Path:
    """A run of a few iterations with two groups each, one of which taught something."""
    (folder / "config.yaml").write_text(f"name: small\niterations: {steps}\n")
    tracker = JsonlTracker(folder / "metrics.jsonl")
    for step in range(1, steps + 1):
        groups = [
            make_group([1.0, 0.0, None], index=2 * step, lengths=[3, 4, 5]),
            make_group([0.0, 0.0], index=2 * step + 1, source="logic"),
        ]
        write_rollouts(folder, step, groups, lessons=lessons_of(groups[0], -0.25))
        times = {"time/iteration_seconds": 3.0, "time/sample_seconds": 1.0}
        tracker.log(step, {"reward/mean": 0.25 * step, "time/learn_seconds": 2.0, **times})
    tracker.finish({})
    return folder
