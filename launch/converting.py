"""Lets a learner go on from a checkpoint of other ranks, another ZeRO stage or another backend."""

import asyncio
import threading
from contextlib import closing
from pathlib import Path

from cispo.config import LearnerConfig
from cispo.learner.shards import parameter_names
from cispo.learner.universal import convert
from cispo.ports import Progress
from launch.resume import Resume

_PHASE = "convert checkpoint"


async def convert_for(learner: LearnerConfig, resume: Resume, progress: Progress) -> None:
    """Convert the checkpoint where this learner cannot read it as it is, however long that takes.

    In a thread of the driver, before any rank starts: ranks would wait for one of them, and count
    as hung after `learner.step_seconds`. Each parameter is an event for the watchdog.

    Args:
        learner: Who goes on.
        resume: Where.
        progress: Told of each parameter, from the thread.

    Raises:
        CheckpointError: The learner's files are incomplete, or the disk is full.
    """
    if resume.checkpoint is None or resume.other_saver(learner) is None:
        return
    is_left = threading.Event()
    try:
        await asyncio.to_thread(_convert, resume.checkpoint, progress, is_left)
    finally:
        is_left.set()


def _convert(checkpoint: Path, progress: Progress, is_left: threading.Event) -> None:
    progress.start(_PHASE, len(parameter_names(checkpoint)))
    with closing(convert(checkpoint)) as converting:
        for name in converting:
            if is_left.is_set():
                return
            progress.advance(_PHASE)
            progress.waiting(_PHASE, f"parameters after {name}")
    progress.finish(_PHASE)
