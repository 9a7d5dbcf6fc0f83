"""Nodes that have not joined yet are named."""

from collections.abc import Iterator, Sequence
from itertools import repeat

import pytest

from cispo.config import ClusterConfig
from cispo.errors import ConfigError
from launch.nodes import PHASE, Node, missing_nodes, wait_for_nodes
from tests.fakes import FakeProgress


def node(host: str, *, num_cpus: float = 8.0, num_gpus: float = 0.0) -> Node:
    return Node(
        node_id=f"id of {host}",
        host=host,
        address=f"10.0.0.{len(host)}",
        num_cpus=num_cpus,
        num_gpus=num_gpus,
    )


@pytest.mark.parametrize(
    ("here", "num_nodes", "hosts", "missing"),
    [
        (["a"], 1, [], ""),
        (["a"], 3, [], "2 of 3 nodes"),
        (["a", "b", "c"], 2, [], ""),
        (["a", "b"], 1, ["a", "b"], ""),
        (["a"], 1, ["a", "b", "c"], "b, c"),
        (["a.cluster.org", "b"], 1, ["a", "b.cluster.org"], ""),
        (["a", "b"], 3, ["a"], "1 of 3 nodes"),
        (["abcd"], 1, ["10.0.0.4"], ""),
    ],
)
def test_what_is_missing_is_said(
    here: Sequence[str], num_nodes: int, hosts: Sequence[str], missing: str
) -> None:
    assert missing_nodes([node(h) for h in here], num_nodes=num_nodes, hosts=hosts) == missing


def test_nodes_are_waited_for_and_named_meanwhile() -> None:
    steps: Iterator[list[Node]] = iter([[node("a")], [node("a")], [node("a"), node("b")]])
    progress = FakeProgress()
    found = wait_for_nodes(
        ClusterConfig(address="auto", hosts=["a", "b"]),
        progress,
        living=lambda: next(steps),
        sleep=lambda seconds: None,
    )
    assert [n.host for n in found] == ["a", "b"]
    assert progress.waited == ["b", "b"]
    assert progress.done == {PHASE: 2}
    assert progress.events == [f"start {PHASE} 2", f"finish {PHASE}"]


def test_nodes_that_never_come_end_the_run_with_their_names_and_who_is_there() -> None:
    cluster = ClusterConfig(address="auto", hosts=["a", "b"], startup_seconds=0.0)
    nodes = repeat([node("a", num_cpus=4, num_gpus=2)])
    with pytest.raises(ConfigError) as refused:
        wait_for_nodes(cluster, None, living=lambda: next(nodes))
    assert ": b; there are a (10.0.0.1: 4 CPUs, 2 GPUs)" in str(refused.value)


def test_a_cluster_of_our_own_cannot_have_several_nodes() -> None:
    for asked in ({"num_nodes": 2}, {"hosts": ["a"]}):
        with pytest.raises(ConfigError, match="use cluster=existing"):
            ClusterConfig(**asked)
