"""Seconds a gigabyte to save and restore a run, beside the disk and torch.save.

    python -m benchmarks.checkpoints                       # writes results/checkpoints.json
    python -m benchmarks.checkpoints --folder /mnt/disk    # on another disk
    python -m benchmarks.checkpoints --quick               # a small model, one learner

DeepSpeed learners of a float32 hybrid of 23 million parameters, whose weights and AdamW's state
take 0.28 GB, ZeRO 0 and 3 on one and two ranks; `Checkpoints` writes them as in a run. Three times
count, medians of some saves:

* blocked: what a save adds to the loop: the call itself, and how much later an optimizer step ends
  that is asked for right after it, beside a step without a save.
* durable: from the call until files, checksums and manifest are forced to disk and renamed.
* restore: verify all checksums, and load into the learner.

Beside them, in the same folder and minutes: `disk`, as many bytes written in one file from memory
and forced to disk; `torch.save`, tensors of as many bytes, then forced to disk, without checksums.
"""

import argparse
import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.learner_groups import GB, SETTINGS, cores, learner_group, samples
from benchmarks.targets import Target, conclude
from cispo.checkpoint import Checkpoints, find_checkpoint, load_state
from cispo.config import ClusterConfig
from cispo.learner.group import LearnerGroup
from cispo.types import PolicyVersion
from launch.cluster import ray_cluster

RESULT = Path(__file__).parent / "results" / "checkpoints.json"
WIDTH, QUICK_WIDTH = 512, 256
TIMES, QUICK_TIMES = 3, 1
BLOCKED_FRACTION = 0.5
"""Most of a durable save that may be added to the loop."""
Row = dict[str, Any]


async def saves(learner: LearnerGroup, folder: Path, *, times: int) -> Row:
    """Save some times, with a step after each, and restore."""
    update = samples(2, tokens=32)
    await learner.step(update)  # the first step makes the optimizer's state
    calls, blocked, durable = [], [], []
    async with Checkpoints(folder, keep=1, config={}) as checkpoints:
        for iteration in range(1, times + 1):
            began = time.perf_counter()
            await learner.step(update)
            alone = time.perf_counter() - began
            began = time.perf_counter()
            await checkpoints.save(
                iteration=iteration,
                version=PolicyVersion(iteration),
                next_task_index=0,
                learner=learner,
            )
            calls.append(time.perf_counter() - began)
            settling = asyncio.create_task(_seconds_until_settled(checkpoints, began))
            await learner.step(update)
            blocked.append(max(calls[-1], time.perf_counter() - began - alone))
            durable.append(await settling)
    checkpoint = find_checkpoint(folder).path
    size = sum(file.stat().st_size for file in checkpoint.rglob("*") if file.is_file())
    began = time.perf_counter()
    load_state(checkpoint)
    verified = time.perf_counter() - began
    await learner.restore(checkpoint)
    restored = time.perf_counter() - began
    per_gb = GB / size
    return {
        "bytes": size,
        "call_seconds_per_gb": statistics.median(calls) * per_gb,
        "blocked_seconds_per_gb": statistics.median(blocked) * per_gb,
        "durable_seconds_per_gb": statistics.median(durable) * per_gb,
        "verify_seconds_per_gb": verified * per_gb,
        "restore_seconds_per_gb": restored * per_gb,
    }


async def _seconds_until_settled(checkpoints: Checkpoints, began: float) -> float:
    await checkpoints.settle()
    return time.perf_counter() - began


def disk(folder: Path, *, num_bytes: int, times: int) -> Row:
    """Write as many bytes plainly and by `torch.save`, forced to disk; seconds a gigabyte."""
    tensor = torch.rand(num_bytes // 4)
    array = tensor.numpy()

    def plainly(path: Path) -> None:
        with path.open("wb", buffering=0) as file:
            array.tofile(file)

    return {
        "disk_seconds_per_gb": _forced(plainly, folder, num_bytes, times),
        "torch_save_seconds_per_gb": _forced(
            lambda path: torch.save({"state": tensor}, path), folder, num_bytes, times
        ),
    }


def _forced(write: Callable[[Path], None], folder: Path, num_bytes: int, times: int) -> float:
    taken = []
    for _ in range(times):
        path = folder / "written"
        began = time.perf_counter()
        write(path)
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        taken.append(time.perf_counter() - began)
        os.close(descriptor)
        path.unlink()
    return statistics.median(taken) / num_bytes * GB


async def measure(folder: Path, *, quick: bool) -> list[Row]:
    """Save with all settings, and write plainly beside each."""
    width, times = (QUICK_WIDTH, QUICK_TIMES) if quick else (WIDTH, TIMES)
    rows: list[Row] = []
    for zero_stage, num_ranks in SETTINGS[-1:] if quick else SETTINGS:
        async with learner_group(width, zero_stage=zero_stage, num_ranks=num_ranks) as learner:
            with tempfile.TemporaryDirectory(dir=folder) as run:
                row = await saves(learner, Path(run), times=times)
                row |= disk(Path(run), num_bytes=row["bytes"], times=times)
        rows.append({"zero_stage": zero_stage, "num_ranks": num_ranks, **row})
        print(
            f"ZeRO {zero_stage}, {num_ranks} ranks, {row['bytes'] / GB:.2f} GB, s/GB: "
            f"blocked {row['blocked_seconds_per_gb']:.2f}, "
            f"durable {row['durable_seconds_per_gb']:.2f}, "
            f"restore {row['restore_seconds_per_gb']:.2f}; "
            f"disk {row['disk_seconds_per_gb']:.2f}, "
            f"torch.save {row['torch_save_seconds_per_gb']:.2f}",
            flush=True,
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--quick", action="store_true", help="small and short; writes nothing")
    options = parser.parse_args()
    began = time.perf_counter()
    cluster = ClusterConfig(num_cpus=max(4, cores()))
    with ray_cluster(cluster, required_cpus=2.0):
        rows = asyncio.run(measure(options.folder, quick=options.quick))
    targets = [
        Target(
            name=f"blocked over durable, ZeRO {row['zero_stage']}, {row['num_ranks']} ranks",
            value=row["blocked_seconds_per_gb"] / row["durable_seconds_per_gb"],
            at_most=BLOCKED_FRACTION,
        )
        for row in rows
    ]
    conclude(
        None if options.quick else RESULT,
        targets,
        began=began,
        checkpoints=rows,
    )


if __name__ == "__main__":
    main()
