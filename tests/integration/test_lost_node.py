"""A machine of the cluster goes away with all that runs on it."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import ray

from cispo.config import RolloutConfig, SamplingConfig
from cispo.types import Rollout, Task
from rollout.actor_source import ActorSource
from rollout.backends.base import EngineStatistics
from rollout.pool import RolloutPool
from rollout.roster import Roster
from tests.fakes import make_rollout, make_task
from tests.waiting import PATIENCE_SECONDS, until, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_session")]

HEAD_CPUS = 8  # of the session's node


def num_nodes() -> int:
    return sum(bool(node["Alive"]) for node in ray.nodes())


NODE = """
import sys, time
from ray._private.node import Node
from ray._private.parameter import RayParams
asked = RayParams(
    gcs_address=sys.argv[1],
    num_cpus=int(sys.argv[2]),
    object_store_memory=80_000_000,
    include_log_monitor=False,
    node_manager_port=0,
    min_worker_port=0,
    max_worker_port=0,
)
Node(asked, head=False, shutdown_at_exit=False, spawn_reaper=False)
time.sleep(3600)
"""
"""As `ray start` does, which would leave an address for every later run on this machine."""


@contextmanager
def second_node(*, num_cpus: int) -> Iterator[int]:
    """Join a node to the running cluster, and yield its process group."""
    address = ray.get_runtime_context().gcs_address
    before = num_nodes()
    with subprocess.Popen(
        [sys.executable, "-c", NODE, address, str(num_cpus)], start_new_session=True
    ) as node:
        try:
            wait_until(lambda: num_nodes() > before, what="the node joins")
            yield node.pid
        finally:
            kill(node.pid)


def kill(group: int) -> None:
    """Take all processes of a node away at once, as a power cut would."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


def light_actor() -> type:
    """A rollout actor's methods without its engine; made here so that Ray sends it by value."""

    class LightActor:
        def __init__(self, folder: Path) -> None:
            self._folder = folder

        async def start(self) -> None:
            return

        async def sample(self, task: Task, count: int, **_: Any) -> list[Rollout]:
            """Answer once the file `hold` is gone."""
            (self._folder / f"held-{ray.get_runtime_context().get_node_id()}").touch()
            while (self._folder / "hold").exists():  # noqa: ASYNC110 - over processes
                await asyncio.sleep(0.05)
            return [make_rollout(task.task_id) for _ in range(count)]

        async def statistics(self) -> EngineStatistics:
            return EngineStatistics()

    return LightActor


class LightSource(ActorSource):
    """Asks for such actors, so large that only one fits on a node."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rollout = RolloutConfig(num_cpus=HEAD_CPUS - 2)

    def create(self, name: str) -> Any:
        options = {"num_cpus": HEAD_CPUS - 2, "max_concurrency": 16}
        return ray.remote(light_actor()).options(**options).remote(self._folder)


async def test_a_node_that_is_lost_costs_no_rollout_and_the_pool_goes_on_without_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "hold").touch()
    roster = Roster(
        LightSource(tmp_path),
        num_actors=2,
        max_attempts=3,
        startup_seconds=PATIENCE_SECONDS,
        stall_seconds=0.0,
    )
    pool = RolloutPool(roster, SamplingConfig(), max_attempts=3, max_sequences=8)
    with second_node(num_cpus=HEAD_CPUS) as node:
        await roster.start(None)
        sampling = [asyncio.create_task(pool.sample(make_task(i), 2, seed=1)) for i in range(8)]
        await until(lambda: len([*tmp_path.glob("held-*")]) == 2, what="both nodes work")
        kill(node)
        await until(lambda: len(roster.members) == 1, what="the loss is noticed")
        (tmp_path / "hold").unlink()
        groups = await asyncio.gather(*sampling)
        assert [r.task_id for group in groups for r in group] == [
            f"task-{i}" for i in range(8) for _ in range(2)
        ]
        lap = await pool.lap()
        assert (lap["faults/engine_deaths"], lap["faults/requests_retried"]) == (1, 4)
        assert lap["engine/actors"] == 1
        assert "another actor starts in its place" in caplog.text
        pool.stop()
        await until(lambda: num_nodes() == 1, what="the cluster counts the node as lost")
