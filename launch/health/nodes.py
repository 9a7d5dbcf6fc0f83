"""Whether the nodes of a cluster are alike, share a folder both ways, and agree on the time."""

import os
import platform
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cispo.config import ClusterConfig
from cispo.tracking.activity import Activity
from launch.cluster import ray_cluster
from launch.health.finding import Finding, Level
from launch.nodes import Node, on_node, wait_for_nodes
from launch.shared_folders import check_nodes

_MOST_APART_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a node did when it was asked.

    Attributes:
        host: Its name.
        seconds_apart: Its clock less ours, as far as a message there and back can tell.
        arrived: Whether what it wrote into the folder is there for us.
    """

    host: str
    seconds_apart: float
    arrived: bool


def nodes(cluster: ClusterConfig, run_dir: str) -> Finding:
    """Join the cluster, compare its nodes with this machine, and let each write in the folder.

    Args:
        cluster: With an address.
        run_dir: The folder; it is made where it is missing.

    Raises:
        ConfigError: There is no such cluster, nodes are missing, have other versions or other code,
            or do not see what we write.
    """
    folder = Path(run_dir).expanduser().absolute()
    with ray_cluster(cluster, required_cpus=0.0):
        found = wait_for_nodes(cluster, None)
        check_nodes(
            found,
            written={"run_dir": folder},
            read={},
            seconds=cluster.startup_seconds,
            progress=Activity(time.monotonic),
        )
        answers = _ask(found, folder, timeout_seconds=cluster.startup_seconds)
    return compare(answers, run_dir=run_dir)


def compare(answers: Sequence[Answer], *, run_dir: str) -> Finding:
    """Say which nodes cannot write, and how far clocks are apart."""
    mute = [answer.host for answer in answers if not answer.arrived]
    if mute:
        return Finding(
            level=Level.FAIL,
            text=f"run_dir={run_dir}: what {', '.join(mute)} writes does not arrive here",
            fix="mount it with the right to write on all nodes",
        )
    apart = max((abs(answer.seconds_apart) for answer in answers), default=0.0)
    said = f"{len(answers)} alike, {run_dir} is shared"
    if apart > _MOST_APART_SECONDS:
        return Finding(
            level=Level.WARN,
            text=f"{said}, clocks are {apart:.1f} s apart",
            fix="run chrony or systemd-timesyncd on all nodes",
        )
    return Finding(text=f"{said}, clocks agree to {apart:.2f} s")


def write_there(path: str) -> Mapping[str, Any]:
    """Write a file and say when; runs on each node."""
    name = ""
    try:
        place = Path(f"{path}.{platform.node()}.{os.getpid()}")
        place.write_text("", encoding="utf-8")
        name = place.name
    except OSError:
        pass  # that it does not arrive is what we want to know
    return {"name": name, "seconds": time.time()}


def _ask(found: Sequence[Node], folder: Path, *, timeout_seconds: float) -> list[Answer]:
    import ray

    mark = folder / f".doctor-{secrets.token_hex(8)}"
    answers = []
    try:
        for node in found:
            task = on_node(write_there, node.node_id)
            ray.get(task.remote(str(mark)), timeout=timeout_seconds)  # the first starts a process
            sent = time.time()
            said = ray.get(task.remote(str(mark)), timeout=timeout_seconds)
            answers.append(
                Answer(
                    host=node.host,
                    seconds_apart=said["seconds"] - (sent + time.time()) / 2,
                    arrived=bool(said["name"]) and (folder / said["name"]).is_file(),
                )
            )
    finally:
        for file in folder.glob(f"{mark.name}*"):
            file.unlink(missing_ok=True)
    return answers
