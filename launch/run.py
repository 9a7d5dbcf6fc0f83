"""One training run from its configuration to its report."""

import asyncio
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, cast

from cispo.checkpoint import Checkpoints
from cispo.config import RunConfig, TrackingConfig
from cispo.errors import CispoError
from cispo.ports import Progress, Tracker
from cispo.tracking.conclude import conclude
from cispo.tracking.console import open_console
from cispo.tracking.fanout import Fanout
from cispo.tracking.jsonl import JsonlTracker
from cispo.tracking.rollouts import RolloutFiles
from cispo.tracking.wandb import WandbTracker
from cispo.train import train
from launch.build import build_parts
from launch.cluster import ray_cluster
from launch.preflight import CheckedTasks, make_run_dir
from launch.resume import Resume


def run_training(cfg: RunConfig, composed: str, tasks: CheckedTasks, resume: Resume) -> None:
    """Train, and leave a summary and a report in the run's folder.

    Args:
        cfg: The whole configuration, checked.
        composed: The same as YAML, kept in the run's folder.
        tasks: What the checks read.
        resume: Where the run begins.

    Raises:
        CispoError: The run failed; what was logged until then is reported.
    """
    config = asdict(cfg)
    folder = make_run_dir(cfg.run_dir, composed, keep=resume.continues(cfg.run_dir))
    with open_console(name=cfg.name, iterations=cfg.iterations) as console:
        files = _trackers(cfg.tracking, folder, resume, name=cfg.name, config=config)
        tracker = Fanout([*files, console])
        try:
            with ray_cluster(cfg.cluster, required_cpus=required_cpus(cfg)):
                asyncio.run(_train(cfg, tasks, resume, folder, config, tracker, console.progress))
        finally:
            if (folder / "metrics.jsonl").stat().st_size:
                tracker.finish(conclude(folder, name=cfg.name))


async def _train(
    cfg: RunConfig,
    tasks: CheckedTasks,
    resume: Resume,
    folder: Path,
    config: Mapping[str, Any],
    tracker: Tracker,
    progress: Progress,
) -> None:
    checkpoints = Checkpoints(folder / "checkpoints", keep=cfg.keep_checkpoints, config=config)
    try:
        async with build_parts(
            cfg, tasks, resume, checkpoints=checkpoints, tracker=tracker, progress=progress
        ) as parts:
            await train(
                parts,
                iterations=cfg.iterations,
                updates_per_iteration=cfg.updates_per_iteration,
                evaluate_every=cfg.evaluation.every,
                checkpoint_every=cfg.checkpoint_every,
                first_iteration=resume.iteration,
                resume_from=resume.checkpoint,
            )
    except BaseExceptionGroup as group:
        raise _explanation(group) from group


def _explanation(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that the user can act on, of those that came together."""
    ours, _ = group.split(CispoError)
    first: BaseException = ours or group
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first


def required_cpus(cfg: RunConfig) -> float:
    """CPUs that the run's actors reserve together."""
    return (
        cfg.learner.num_ranks * cfg.learner.num_cpus
        + cfg.rollout.num_actors * cfg.rollout.num_cpus
        + cfg.reward.num_workers * cfg.reward.num_cpus
    )


def _trackers(
    tracking: TrackingConfig,
    folder: Path,
    resume: Resume,
    *,
    name: str,
    config: Mapping[str, Any],
) -> list[Tracker]:
    keep = resume.keep_through
    trackers: list[Tracker] = [
        JsonlTracker(folder / "metrics.jsonl", keep_through=keep),
        RolloutFiles(folder / "rollouts", every=tracking.rollouts_every, keep_through=keep),
    ]
    if tracking.wandb_mode != "disabled":
        mode = cast(Literal["offline", "online"], tracking.wandb_mode)
        trackers.append(
            WandbTracker(folder, mode=mode, project=tracking.project, name=name, config=config)
        )
    return trackers
