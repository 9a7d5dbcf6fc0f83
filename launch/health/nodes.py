"""Whether the nodes of a cluster are alike, share a folder and agree on the time."""

import os
import platform
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from launch.health.finding import Finding, Level

_COMPARED = ("torch", "ray", "transformers", "deepspeed")
_MOST_APART_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """What a node says of itself.

    Attributes:
        host: Its name.
        software: Versions, by what they are of.
        seconds_apart: Its clock less ours, as far as a message there and back can tell.
        reads: Whether it read what we wrote into the shared folder.
        wrote: Name of the file that it wrote there; empty where it could not.
    """

    host: str
    software: Mapping[str, str]
    seconds_apart: float
    reads: bool
    wrote: str


def versions() -> dict[str, str]:
    """Return the versions that all nodes should have."""
    return {"python": platform.python_version(), **{name: version(name) for name in _COMPARED}}


def answer(folder: str, name: str, secret: str) -> tuple[str, dict[str, str], float, bool, str]:
    """Say what this node has, and read and write in the folder; runs on each node."""
    place = Path(folder)
    reads = (place / name).is_file() and (place / name).read_text(encoding="utf-8") == secret
    wrote = f"{name}.{platform.node()}.{os.getpid()}"
    try:
        (place / wrote).write_text(secret, encoding="utf-8")
    except OSError:
        wrote = ""
    return platform.node(), versions(), time.time(), reads, wrote


def ask_nodes(run_dir: str, *, timeout_seconds: float) -> list[Node]:
    """Ask every living node of the cluster that this process has joined.

    The folder is made where it is missing; what is written in it is removed again.

    Raises:
        OSError: We cannot write into the folder ourselves.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    folder = Path(run_dir).expanduser().absolute()
    folder.mkdir(parents=True, exist_ok=True)
    name, secret = f".doctor-{secrets.token_hex(8)}", secrets.token_hex(16)
    (folder / name).write_text(secret, encoding="utf-8")
    remote = ray.remote(answer)
    nodes: list[Node] = []
    try:
        for node in ray.nodes():
            if not node["Alive"]:
                continue
            there = NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False)
            task = remote.options(num_cpus=0, scheduling_strategy=there)
            ray.get(task.remote(str(folder), name, secret), timeout=timeout_seconds)  # starts it
            sent = time.time()
            host, software, at, reads, wrote = ray.get(
                task.remote(str(folder), name, secret), timeout=timeout_seconds
            )
            nodes.append(
                Node(
                    host=host,
                    software=software,
                    seconds_apart=at - (sent + time.time()) / 2,
                    reads=reads,
                    wrote=wrote if wrote and (folder / wrote).is_file() else "",
                )
            )
    finally:
        for file in folder.glob(f"{name}*"):
            file.unlink(missing_ok=True)
    return nodes


def compare(nodes: Sequence[Node], ours: Mapping[str, str], *, run_dir: str) -> Finding:
    """Say in what nodes differ from this one."""
    wrong = [
        f"{node.host} has {name} {node.software.get(name)}, this one {ours[name]}"
        for node in nodes
        for name in ours
        if node.software.get(name) != ours[name]
    ]
    if wrong:
        return Finding(
            level=Level.FAIL,
            text=", ".join(wrong),
            fix="install the same environment on all nodes",
        )
    blind = [node.host for node in nodes if not (node.reads and node.wrote)]
    if blind:
        return Finding(
            level=Level.FAIL,
            text=f"run_dir={run_dir} is not one folder for {', '.join(blind)}",
            fix="name a run_dir on a file system that all nodes mount under the same path",
        )
    apart = max((abs(node.seconds_apart) for node in nodes), default=0.0)
    said = f"{len(nodes)} alike, {run_dir} is shared"
    if apart > _MOST_APART_SECONDS:
        return Finding(
            level=Level.WARN,
            text=f"{said}, clocks are {apart:.1f} s apart",
            fix="run chrony or systemd-timesyncd on all nodes",
        )
    return Finding(text=f"{said}, clocks agree to {apart:.2f} s")
