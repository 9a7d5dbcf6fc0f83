"""The loop: sample with mu, compare within groups, ascend J_CISPO, publish mu <- pi (stdlib only).

Synchronous and asynchronous training are this same loop; only the stream's `max_staleness` differs.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TypeAlias

from cispo.anchor import Anchor, behaviour
from cispo.diagnostics import describe, in_task_order, speeds
from cispo.lessons import Review, unmeasured
from cispo.phases import Phases
from cispo.ports import (
    Checkpoints,
    Evaluator,
    GroupStream,
    Learner,
    Meter,
    Progress,
    Schedule,
    Tracker,
    WeightSync,
)
from cispo.schedules import Schedules
from cispo.stopping import StopRequest
from cispo.types import Group, Metrics, PolicyVersion, RolloutKind, Sample

Advantages: TypeAlias = Callable[[Sequence[Group]], Sequence[tuple[Sample, ...]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the loop drives.

    Attributes:
        weights: Publishes the learner's weights to the engine.
        stream: Delivers judged groups.
        meter: Counts what the parts do.
        advantages: Turns the groups of an iteration into one tuple of samples a group.
        learner: Takes optimizer steps.
        tracker: Records metrics and rollouts.
        evaluator: Measures on held-out tasks.
        checkpoints: Keeps what a resume needs.
        progress: Shows what the run does now.
        stop: Asks the run to end early.
        anchor: Decides what the ratio divides by.
        review: Looks back at what was learned from, for the tracker.
        schedule: Changes what is sampled and learned next, by what the iteration shows.
    """

    weights: WeightSync
    stream: GroupStream
    meter: Meter
    advantages: Advantages
    learner: Learner
    tracker: Tracker
    evaluator: Evaluator
    checkpoints: Checkpoints
    progress: Progress
    stop: StopRequest = field(default_factory=StopRequest)
    anchor: Anchor = behaviour
    review: Review = unmeasured
    schedule: Schedule = field(default_factory=Schedules)


async def train(
    parts: Parts,
    *,
    iterations: int,
    updates_per_iteration: int,
    evaluate_every: int,
    checkpoint_every: int,
    first_iteration: int = 0,
    resume_from: Path | None = None,
) -> int:
    """Train, and log step i after i iterations; step 0 is the evaluation before the first.

    Args:
        parts: What the loop drives.
        iterations: Rollout batches in all, those before a resume included.
        updates_per_iteration: Optimizer steps of an iteration.
        evaluate_every: Iterations between evaluations; 0 is before and after the run, -1 never.
        checkpoint_every: Iterations between checkpoints; 0 writes only the last.
        first_iteration: Iterations that the checkpoint has behind it.
        resume_from: Checkpoint folder that the learner restores, or None for a fresh run.

    Returns:
        Iterations that are done: `iterations`, or fewer where the run was asked to stop. Sampling
        is then given up, and what was learned is kept in a checkpoint.

    Raises:
        CispoError: Whatever a part refused or failed with; nothing is swallowed.
    """
    phase = Phases(parts.progress)
    if resume_from is not None:
        with phase("restore", total=1):
            await parts.learner.restore(resume_from)
    with phase("publish", total=1):
        version = await parts.weights.publish()  # mu <- pi
    if first_iteration == 0 and evaluate_every >= 0:
        heldout = await _evaluate(parts, phase, step=0)
        parts.tracker.log(0, {**heldout, **await parts.meter.lap(), **phase.lap()})
    is_kept = True
    async with parts.stream as stream, parts.checkpoints as checkpoints:
        for step in range(first_iteration + 1, iterations + 1):
            with phase("sample"):
                groups = await parts.stop.unless_asked(stream.take())  # o_1..o_G ~ mu, judged
            if groups is None:
                if not is_kept:
                    await _keep(parts, phase, stream, step=step - 1, version=version)
                return step - 1
            samples = parts.advantages(groups)
            learned: list[Metrics] = []
            with phase("learn", total=updates_per_iteration):
                samples = await parts.anchor(samples)  # what pi is divided by
                for update in equal_slices(samples, updates_per_iteration):
                    if update:
                        learned.append(await parts.learner.step(update))  # ascend J_CISPO
                    parts.progress.advance("learn")
                lessons = await parts.review(step, samples)
            sampled = in_task_order(groups, stream.dropped)
            parts.tracker.record(step, sampled, lessons=lessons)
            metrics = describe(groups, samples, learned, version=version, dropped=stream.dropped)
            metrics |= parts.schedule.observe(sampled)  # length window, curriculum
            with phase("publish", total=1):
                version = await parts.weights.publish()  # mu <- pi
            stream.release()
            if is_due(step, evaluate_every, last=iterations):
                metrics = {**metrics, **await _evaluate(parts, phase, step=step)}
            engine = await parts.meter.lap()
            times = phase.lap()
            speed = speeds(metrics, times, sampling_seconds=stream.sampling_seconds)
            parts.tracker.log(step, {**metrics, **engine, **times, **speed, **checkpoints.lap()})
            is_kept = is_due(step, checkpoint_every, last=iterations)
            if is_kept:
                await _keep(parts, phase, stream, step=step, version=version)
    return iterations


async def _evaluate(parts: Parts, phase: Phases, *, step: int) -> Metrics:
    with phase("evaluate"):
        heldout = await parts.evaluator.evaluate()
    parts.tracker.record(step, parts.evaluator.groups, kind=RolloutKind.HELD_OUT)
    return heldout


async def _keep(
    parts: Parts, phase: Phases, stream: GroupStream, *, step: int, version: PolicyVersion
) -> None:
    with phase("checkpoint", total=1):  # timed in the next step's line
        await parts.checkpoints.save(
            iteration=step,
            version=version,
            next_task_index=stream.next_task_index,
            learner=parts.learner,
            in_flight=stream.in_flight,
        )


def equal_slices(
    samples: Sequence[tuple[Sample, ...]], num_slices: int
) -> Iterator[tuple[Sample, ...]]:
    """Cut the groups' samples into slices of equally many groups, each flattened.

    Raises:
        ValueError: `num_slices` does not divide the number of groups.
    """
    size, rest = divmod(len(samples), num_slices)
    if rest:
        raise ValueError(f"{len(samples)} groups cannot be cut into {num_slices} equal slices")
    for start in range(0, len(samples), size):
        yield tuple(chain.from_iterable(samples[start : start + size]))


def is_due(step: int, every: int, *, last: int) -> bool:
    """Whether something falls due after `step` iterations: at each `every`-th and at the last.

    `every` 0 is due at the last step only, -1 never.
    """
    return every >= 0 and (step == last or (every > 0 and step % every == 0))
