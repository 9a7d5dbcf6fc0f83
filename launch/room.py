"""Refuses a run whose actors cannot all find room in the cluster, before they are waited for."""

from collections.abc import Sequence
from dataclasses import dataclass

from cispo.config import LearnerConfig, RewardConfig, RolloutConfig
from cispo.errors import ConfigError
from launch.nodes import Node


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What some actors of one kind reserve.

    Attributes:
        what: Their name, in the plural.
        keys: Of the configuration: how many, CPUs, GPUs.
        count: How many.
        num_cpus: Of each.
        num_gpus: Of each.
    """

    what: str
    keys: str
    count: int
    num_cpus: float
    num_gpus: float

    def __str__(self) -> str:
        return (
            f"{self.count} {self.what} of {self.num_cpus:g} CPUs and {self.num_gpus:g} GPUs "
            f"({self.keys})"
        )


def demands(
    learner: LearnerConfig, rollout: RolloutConfig, reward: RewardConfig
) -> tuple[Demand, ...]:
    """What a run's actors reserve."""
    return (
        Demand(
            what="learner ranks",
            keys="learner.num_ranks, num_cpus, num_gpus",
            count=learner.num_ranks,
            num_cpus=learner.num_cpus,
            num_gpus=learner.num_gpus,
        ),
        Demand(
            what="engines",
            keys="rollout.num_actors, num_cpus, num_gpus",
            count=rollout.num_actors,
            num_cpus=rollout.num_cpus,
            num_gpus=rollout.num_gpus,
        ),
        Demand(
            what="reward workers",
            keys="reward.num_workers, num_cpus",
            count=reward.num_workers,
            num_cpus=reward.num_cpus,
            num_gpus=0.0,
        ),
    )


def check_room(nodes: Sequence[Node], wanted: Sequence[Demand]) -> None:
    """Refuse what no cluster of these nodes can hold, even if nothing else ran on it.

    Raises:
        ConfigError: An actor is larger than every node, or all together than all nodes.
    """
    there = f"the cluster has {', '.join(map(str, nodes))}"
    for demand in wanted:
        if not any(
            demand.num_cpus <= node.num_cpus and demand.num_gpus <= node.num_gpus for node in nodes
        ):
            raise ConfigError(f"no node has room for one of {demand}; {there}")
    for unit in ("CPUs", "GPUs"):
        key = f"num_{unit.lower()}"
        asked = sum(demand.count * getattr(demand, key) for demand in wanted)
        available = sum(getattr(node, key) for node in nodes)
        if asked > available:
            raise ConfigError(
                f"{asked:g} {unit} are asked for, by {'; '.join(map(str, wanted))}, and "
                f"{available:g} are there; {there}"
            )
