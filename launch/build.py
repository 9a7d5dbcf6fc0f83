"""The composition root: from a checked configuration to the parts that the loop drives."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from cispo.advantages import advantages
from cispo.anchor import Proximal, behaviour
from cispo.checkpoint import Checkpoints
from cispo.config import AdvantageKind, AnchorKind, RunConfig
from cispo.evaluate import HeldOutEvaluator
from cispo.learner.group import LearnerGroup
from cispo.learner.seats import reserve_seats
from cispo.lessons import Retrospect, Review, unmeasured
from cispo.meters import Meters
from cispo.overlap import WorkTimes
from cispo.ports import Progress, Tracker
from cispo.spans import SpannedVerifier, Spans
from cispo.stacks import Dump
from cispo.stopping import StopRequest
from cispo.stream import OrderedStream
from cispo.train import Parts
from cispo.weights.object_store import ObjectStore
from cispo.weights.outlet import Route
from cispo.weights.shared_file import SharedFolder
from cispo.weights.sync import Broadcasts, Publisher
from launch.preflight import CheckedTasks
from launch.recipe import Recipe
from launch.resume import Resume
from launch.shared_folders import anywhere
from rewards.pool import RewardPool
from rollout.pool import RolloutPool

T = TypeVar("T")


@asynccontextmanager
async def build_parts(
    cfg: RunConfig,
    tasks: CheckedTasks,
    resume: Resume,
    *,
    recipe: Recipe,
    checkpoints: Checkpoints,
    tracker: Tracker,
    progress: Progress,
    spans: Spans,
    stop: StopRequest,
    dump: Callable[[], Dump],
) -> AsyncIterator[Parts]:
    """Start learner, rollout actors and reward workers side by side, and stop them at the end.

    Args:
        cfg: The whole configuration.
        tasks: What the checks read.
        resume: Where the run begins.
        recipe: What changes on the way.
        checkpoints: Keeps what a resume needs.
        tracker: Records metrics and rollouts.
        progress: Shows what the run does now.
        spans: Collects who was busy when.
        stop: Asks the loop to end early.
        dump: Dumps the stacks of all processes.

    Raises:
        CispoError: Some did not start; the message names them.
    """
    async with AsyncExitStack() as stack:
        work = WorkTimes(num_engines=cfg.rollout.num_actors, spans=spans)
        learner, engine, workers = await _start_actors(cfg, stack, work, progress, dump)
        verifier = SpannedVerifier(workers, spans)
        stream = OrderedStream(
            tasks.training,
            recipe.engine(engine),
            verifier,
            tasks_per_iteration=cfg.tasks_per_iteration,
            group_size=cfg.group_size,
            max_staleness=cfg.max_staleness,
            dynamic_sampling=cfg.objective.dynamic_sampling,
            max_consecutive_drops=cfg.objective.max_consecutive_drops,
            max_ungraded_fraction=cfg.reward.max_ungraded_fraction,
            seed=cfg.seed,
            progress=progress,
            first_task=resume.next_task_index,
            iterations=cfg.iterations - resume.iteration,
            restored=resume.in_flight,
        )
        evaluator = HeldOutEvaluator(
            tasks.held_out,
            engine.with_sampling(cfg.evaluation.sampling),
            verifier,
            num_rollouts=cfg.evaluation.num_rollouts,
            seed=cfg.seed,
            progress=progress,
        )
        publisher = Publisher(
            learner,
            engine,
            _way_of_weights(cfg),
            bucket_bytes=cfg.weights.bucket_bytes,
            version=resume.published_before,
        )
        yield Parts(
            weights=publisher,
            stream=stream,
            meter=Meters(engine, workers, work, publisher),
            anchor=Proximal(learner) if cfg.objective.anchor == AnchorKind.PROXIMAL else behaviour,
            review=_review(cfg, learner),
            advantages=partial(
                advantages,
                kind=AdvantageKind(cfg.objective.advantage),
                leaves_out_equal=cfg.objective.leave_out_equal,
            ),
            learner=recipe.learner(learner),
            tracker=tracker,
            evaluator=evaluator,
            checkpoints=checkpoints,
            progress=progress,
            stop=stop,
            schedule=recipe.schedules,
        )


async def _start_actors(
    cfg: RunConfig,
    stack: AsyncExitStack,
    work: WorkTimes,
    progress: Progress,
    dump: Callable[[], Dump],
) -> tuple[LearnerGroup, RolloutPool, RewardPool]:
    seconds = cfg.cluster.startup_seconds
    policy = anywhere(cfg.policy)
    seats = await reserve_seats(cfg.learner, seconds=seconds, progress=progress)
    stack.callback(seats.free)
    async with asyncio.TaskGroup() as starting:
        learner = starting.create_task(
            _started(
                LearnerGroup.start(
                    policy,
                    cfg.learner,
                    cfg.objective,
                    temperature=cfg.rollout.sampling.temperature,
                    seed=cfg.seed,
                    startup_seconds=seconds,
                    progress=progress,
                    work=work,
                    dump=dump,
                    seats=seats,
                ),
                LearnerGroup.stop,
                stack,
            )
        )
        engine = starting.create_task(
            _started(
                RolloutPool.start(
                    policy,
                    cfg.rollout,
                    startup_seconds=seconds,
                    sandbox=cfg.sandbox,
                    progress=progress,
                    work=work,
                ),
                RolloutPool.stop,
                stack,
            )
        )
        verifier = starting.create_task(
            _started(
                RewardPool.start(
                    cfg.reward,
                    cfg.sandbox,
                    max_new_tokens=cfg.rollout.sampling.max_new_tokens,
                    startup_seconds=seconds,
                    progress=progress,
                ),
                RewardPool.close,
                stack,
            )
        )
    return learner.result(), engine.result(), verifier.result()


async def _started(
    start: Coroutine[Any, Any, T], stop: Callable[[T], None], stack: AsyncExitStack
) -> T:
    """Start a part, which is stopped again also where another one fails to start."""
    part = await start
    stack.callback(stop, part)
    return part


def _review(cfg: RunConfig, learner: LearnerGroup) -> Review:
    max_tokens = cfg.tracking.scored_tokens if cfg.tracking.rollouts_every else 0
    return Retrospect(learner, max_tokens=max_tokens) if max_tokens else unmeasured


def _way_of_weights(cfg: RunConfig) -> Route | Broadcasts:
    match cfg.weights.transport:
        case "file":
            return SharedFolder(Path(cfg.weights.folder).absolute())
        case "collective":
            has_gpus = min(cfg.learner.num_gpus, cfg.rollout.num_gpus) > 0
            return Broadcasts(
                backend="nccl" if has_gpus else "gloo",
                timeout_seconds=cfg.weights.timeout_seconds,
            )
        case _:
            return ObjectStore()
