"""Seconds a gigabyte from the learner's weights to the same bytes in a rollout engine.

    python -m benchmarks.weight_sync             # writes results/weight_sync.json
    python -m benchmarks.weight_sync --quick     # a small model, one learner, writes nothing

A whole `Publisher.publish`: gather (under ZeRO 3), copy into buckets, checksums, transfer, and in
the engine checksums again and the copy into its model; by each of the transports of
`weights.transport`, with ZeRO 0 and 3 on one and two ranks, to one rollout actor with the lightning
engine, all on this machine. The model is a float32 hybrid of 52 million parameters, 0.2 GB. Each
transport publishes once to set itself up, which is not counted, and then some times; the median
counts.

Beside it stands what memory allows: a copy of the same bytes between buffers that exist, and the
checksum of a bucket.
"""

import argparse
import asyncio
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.learner_groups import GB, SETTINGS, STARTUP_SECONDS, cores, learner_group, policy
from benchmarks.targets import Target, conclude
from cispo.config import ClusterConfig, RolloutConfig
from cispo.learner.group import LearnerGroup
from cispo.weights.buckets import make_bucket
from cispo.weights.object_store import ObjectStore
from cispo.weights.outlet import Route
from cispo.weights.shared_file import SharedFolder
from cispo.weights.sync import Broadcasts, Publisher
from launch.cluster import ray_cluster
from rollout.pool import RolloutPool

RESULT = Path(__file__).parent / "results" / "weight_sync.json"
WIDTH, QUICK_WIDTH = 768, 256
TIMES, QUICK_TIMES = 5, 2
SHARED_MEMORY = Path("/dev/shm")
TRANSPORTS = ("object_store", "file", "collective")
LIMIT_SECONDS = 5.0
"""Of a gigabyte, by the default transport."""
Row = dict[str, Any]


def way(transport: str) -> Route | Broadcasts:
    """Open a transport as `launch.build` does."""
    match transport:
        case "object_store":
            return ObjectStore()
        case "file":
            return SharedFolder(SHARED_MEMORY)
        case _:
            return Broadcasts(backend="gloo", timeout_seconds=60.0)


async def publishes(
    learner: LearnerGroup, engine: RolloutPool, transport: str, *, version: int, times: int
) -> Row:
    """Publish some times by one transport; versions count on from `version`."""
    publisher = Publisher(learner, engine, way(transport), version=version)
    await publisher.publish()
    await publisher.lap()
    taken, exported, size = [], [], 0.0
    for _ in range(times):
        await publisher.publish()
        lap = await publisher.lap()
        taken.append(lap["time/sync_seconds"])
        exported.append(lap["time/sync_export_seconds"])
        size = lap["engine/sync_bytes"]
    return {
        "transport": transport,
        "bytes": size,
        "seconds": taken,
        "seconds_per_gb": statistics.median(taken) / size * GB,
        "export_seconds_per_gb": statistics.median(exported) / size * GB,
    }


async def measure(*, quick: bool) -> list[Row]:
    """Publish with all settings by all transports."""
    width, times = (QUICK_WIDTH, QUICK_TIMES) if quick else (WIDTH, TIMES)
    engine = await RolloutPool.start(
        policy(width), RolloutConfig(max_sequences=1), startup_seconds=STARTUP_SECONDS
    )
    rows: list[Row] = []
    version = 0
    try:
        for zero_stage, num_ranks in SETTINGS[-1:] if quick else SETTINGS:
            async with learner_group(width, zero_stage=zero_stage, num_ranks=num_ranks) as learner:
                for transport in TRANSPORTS:
                    row = await publishes(learner, engine, transport, version=version, times=times)
                    version += times + 1
                    rows.append({"zero_stage": zero_stage, "num_ranks": num_ranks, **row})
                    print(
                        f"ZeRO {zero_stage}, {num_ranks} ranks, {transport:12} "
                        f"{row['seconds_per_gb']:6.2f} s/GB, of which the learner "
                        f"{row['export_seconds_per_gb']:.2f}; {row['bytes'] / GB:.2f} GB",
                        flush=True,
                    )
    finally:
        engine.stop()
    return rows


def limits(*, num_bytes: int = 64 * 2**20, times: int = 5) -> Row:
    """What memory allows, on one thread, in seconds a gigabyte."""
    torch.set_num_threads(1)
    source, target = torch.ones(num_bytes // 4), torch.zeros(num_bytes // 4)
    bucket = make_bucket({"weights": source}, index=0, total=1)
    copied, checked = [], []
    for _ in range(times):
        began = time.perf_counter()
        target.copy_(source)
        copied.append(time.perf_counter() - began)
        began = time.perf_counter()
        bucket.digest()
        checked.append(time.perf_counter() - began)
    return {
        "copy_seconds_per_gb": statistics.median(copied) / num_bytes * GB,
        "checksum_seconds_per_gb": statistics.median(checked) / num_bytes * GB,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small and short; writes nothing")
    quick = parser.parse_args().quick
    began = time.perf_counter()
    allowed = limits()
    print("memory allows: " + ", ".join(f"{name} {one:.2f}" for name, one in allowed.items()))
    cluster = ClusterConfig(num_cpus=max(4, cores()), object_store_bytes=2 * 2**30)
    with ray_cluster(cluster, required_cpus=3.0):
        rows = asyncio.run(measure(quick=quick))
    targets = [
        Target(
            name=f"s/GB, ZeRO {row['zero_stage']}, {row['num_ranks']} ranks, {row['transport']}",
            value=row["seconds_per_gb"],
            at_most=LIMIT_SECONDS,
        )
        for row in rows
    ]
    conclude(
        None if quick else RESULT,
        targets,
        began=began,
        limits=allowed,
        publishes=rows,
    )


if __name__ == "__main__":
    main()
