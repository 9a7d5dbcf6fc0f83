"""Actors that can never find room are refused, with what they ask for and what there is."""

import pytest

from cispo.config import LearnerConfig, RewardConfig, RolloutConfig
from cispo.errors import ConfigError
from launch.room import check_room, demands
from tests.launch.test_nodes import node

WANTED = demands(
    LearnerConfig(num_ranks=4, num_cpus=2, num_gpus=1),
    RolloutConfig(num_actors=4, num_cpus=1, num_gpus=1),
    RewardConfig(num_workers=4, num_cpus=0.25),
)
"""13 CPUs and 8 GPUs."""


def test_actors_that_fit_exactly_are_let_in() -> None:
    check_room([node("a", num_cpus=9, num_gpus=4), node("b", num_cpus=4, num_gpus=4)], WANTED)


def test_more_than_all_nodes_have_is_refused() -> None:
    nodes = [node("a", num_cpus=20, num_gpus=4), node("b", num_cpus=20, num_gpus=3)]
    with pytest.raises(ConfigError) as refused:
        check_room(nodes, WANTED)
    assert str(refused.value).startswith("8 GPUs are asked for, by 4 learner ranks of 2 CPUs and 1")
    assert "and 7 are there" in str(refused.value)
    assert "b (10.0.0.1: 20 CPUs, 3 GPUs)" in str(refused.value)


def test_an_actor_that_no_node_can_hold_is_refused_though_all_together_could() -> None:
    with pytest.raises(ConfigError, match="no node has room for one of 4 learner ranks of 2 CPUs"):
        check_room([node(f"n{i}", num_cpus=1.5, num_gpus=1) for i in range(20)], WANTED)
