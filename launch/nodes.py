"""Waits for the nodes of a cluster that others started, and names those that are missing."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cispo.config import ClusterConfig
from cispo.errors import ConfigError
from cispo.ports import Progress

PHASE = "nodes of the cluster"
_POLL_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node that is alive, and all that it has, used or not.

    Attributes:
        node_id: Ray's.
        host: Its name.
        address: By which other nodes reach it.
        num_cpus: That Ray may reserve.
        num_gpus: That Ray may reserve.
    """

    node_id: str
    host: str
    address: str
    num_cpus: float
    num_gpus: float

    def __str__(self) -> str:
        return f"{self.host} ({self.address}: {self.num_cpus:g} CPUs, {self.num_gpus:g} GPUs)"


def living_nodes() -> list[Node]:
    """All nodes of the cluster that this process has joined."""
    import ray

    return [
        Node(
            node_id=node["NodeID"],
            host=node["NodeManagerHostname"],
            address=node["NodeManagerAddress"],
            num_cpus=node["Resources"].get("CPU", 0.0),
            num_gpus=node["Resources"].get("GPU", 0.0),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def on_node(function: Callable[..., Any], node_id: str) -> Any:
    """A function as a task of Ray that runs on this node alone and reserves nothing."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there = NodeAffinitySchedulingStrategy(node_id=node_id, soft=False)
    return ray.remote(function).options(num_cpus=0, scheduling_strategy=there, max_retries=0)


def missing_nodes(nodes: Sequence[Node], *, num_nodes: int, hosts: Sequence[str]) -> str:
    """Say what of the nodes that are expected is not there; an empty text where all are.

    Args:
        nodes: That are there.
        num_nodes: As many are expected.
        hosts: Are expected, with or without their domain.
    """
    here = {_short(node.host) for node in nodes} | {node.address for node in nodes}
    absent = [host for host in hosts if host not in here and _short(host) not in here]
    if absent:
        return ", ".join(absent)
    number = num_nodes - len(nodes)
    return f"{number} of {num_nodes} nodes" if number > 0 else ""


def wait_for_nodes(
    cluster: ClusterConfig,
    progress: Progress | None,
    *,
    living: Callable[[], Sequence[Node]] = living_nodes,
    sleep: Callable[[float], None] = time.sleep,
) -> Sequence[Node]:
    """Wait until the nodes that are expected have joined; returns all that have.

    Raises:
        ConfigError: Some have not in `cluster.startup_seconds`; the message names them.
    """
    deadline = time.monotonic() + cluster.startup_seconds
    if progress:
        progress.start(PHASE, max(cluster.num_nodes, len(cluster.hosts)))
    num_before = 0
    while True:
        nodes = living()
        missing = missing_nodes(nodes, num_nodes=cluster.num_nodes, hosts=cluster.hosts)
        if progress and len(nodes) > num_before:
            progress.advance(PHASE, len(nodes) - num_before)
            num_before = len(nodes)
        if not missing:
            break
        if time.monotonic() >= deadline:
            raise ConfigError(
                f"cluster.startup_seconds={cluster.startup_seconds:g}: not in the cluster after "
                f"that time: {missing}; there are {', '.join(map(str, nodes))}. Look at what "
                "`ray start` printed on those that are missing"
            )
        if progress:
            progress.waiting(PHASE, missing)
        sleep(_POLL_SECONDS)
    if progress:
        progress.finish(PHASE)
    return nodes


def _short(host: str) -> str:
    """A host's name without its domain."""
    return host.partition(".")[0]
