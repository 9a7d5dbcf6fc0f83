"""The composition root: from a checked configuration to the parts that the loop drives."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

from cispo.advantages import advantages
from cispo.anchor import Proximal, behaviour
from cispo.checkpoint import Checkpoints
from cispo.config import AdvantageKind, AnchorKind, RunConfig
from cispo.evaluate import HeldOutEvaluator
from cispo.learner.group import LearnerGroup
from cispo.lessons import Retrospect, Review, unmeasured
from cispo.meters import Meters
from cispo.overlap import WorkTimes
from cispo.ports import Progress, RolloutEngine, Tracker, Verifier
from cispo.spans import SpannedVerifier, Spans
from cispo.stacks import Dump
from cispo.stopping import StopRequest
from cispo.stream import OrderedStream
from cispo.train import Parts
from cispo.weights.object_store import ObjectStore
from cispo.weights.outlet import Route
from cispo.weights.shared_file import SharedFolder
from cispo.weights.sync import Broadcasts, Publisher
from launch.actors import start_actors
from launch.preflight import CheckedTasks
from launch.recipe import Recipe
from launch.resume import Resume


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
        learner, engine, workers = await start_actors(
            cfg, stack, work=work, progress=progress, dump=dump
        )
        verifier = SpannedVerifier(workers, spans)
        stream = _stream(
            cfg,
            tasks,
            resume,
            engine=recipe.engine(engine),
            verifier=verifier,
            progress=progress,
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


def _stream(
    cfg: RunConfig,
    tasks: CheckedTasks,
    resume: Resume,
    *,
    engine: RolloutEngine,
    verifier: Verifier,
    progress: Progress,
) -> OrderedStream:
    return OrderedStream(
        tasks.training,
        engine,
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


def _review(cfg: RunConfig, learner: LearnerGroup) -> Review:
    max_tokens, every = cfg.tracking.scored_tokens, cfg.tracking.rollouts_every
    if max_tokens == 0 or every == 0:
        return unmeasured
    return Retrospect(learner, max_tokens=max_tokens, every=every)


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
