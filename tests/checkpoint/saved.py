"""A learner that writes two small files, and runs that save it."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from cispo.checkpoint import Checkpoints
from cispo.errors import CheckpointError
from cispo.types import Group, Metrics, PolicyVersion, Sample

CONFIG = {
    "seed": 7,
    "iterations": 10,
    "objective": {"kind": "cispo", "ratio_max": 5.0},
    "learner": {"num_ranks": 1, "zero_stage": 1, "optimizer": {"lr": 1e-6}},
    "tasks": {"sources": [{"name": "sums", "weight": 1.0}]},
    "tracking": {"wandb_mode": "offline"},
}

SCHEDULES = {"length_window": {"stage": 1, "perplexities": [1.5, 1.25]}}


class Learner:
    """Saves its number as it is when it is asked, and goes on only when it is let.

    Attributes:
        number: What it has learned.
        gate: Cleared, it is still writing.
        failure: What ends a save in the middle.
        events: What it did, in order.
    """

    def __init__(self, number: int = 0) -> None:
        self.number = number
        self.gate = asyncio.Event()
        self.gate.set()
        self.failure: Exception | None = None
        self.events: list[str] = []

    async def step(self, samples: Sequence[Sample]) -> Metrics:
        self.events.append(f"step {self.number}")
        self.number += 1
        return {}

    async def save(self, folder: Path) -> None:
        number = self.number
        self.events.append(f"asked {number}")
        (folder / "shard").mkdir()
        (folder / "shard" / "half").write_text("half")
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        (folder / "weights").write_text(str(number))
        self.events.append(f"saved {number}")

    async def restore(self, folder: Path) -> None:
        self.number = int((folder / "weights").read_text())


def full_disk() -> Exception:
    return CheckpointError("learner.pt: no space is left on the disk (0 bytes are free)")


def checkpoints_in(
    folder: Path, *, keep: int = 2, warn: Callable[[str], None] = print
) -> Checkpoints:
    return Checkpoints(
        folder,
        keep=keep,
        config=CONFIG,
        tracker_run_id="abc123",
        schedules=lambda: SCHEDULES,
        warn=warn,
    )


async def begin(
    checkpoints: Checkpoints, learner: Learner, iteration: int, in_flight: Sequence[Group] = ()
) -> None:
    """Ask for a checkpoint after an iteration."""
    await checkpoints.save(
        iteration=iteration,
        version=PolicyVersion(iteration + 1),
        next_task_index=iteration * 32,
        learner=learner,
        in_flight=in_flight,
    )


def save(folder: Path, *iterations: int, keep: int = 2, in_flight: Sequence[Group] = ()) -> None:
    """Write checkpoints one after another, each to its end; its number is its iteration."""

    async def run() -> None:
        for iteration in iterations:
            async with checkpoints_in(folder, keep=keep) as checkpoints:
                await begin(checkpoints, Learner(iteration), iteration, in_flight)

    asyncio.run(run())


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
