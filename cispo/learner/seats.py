"""Where the learner's ranks live: on as few nodes as possible, and next to others of their node.

Ranks talk to each other more than anything else in a run does, and consecutive ranks the most:
they share rows. Room is reserved for all before engines are asked for, which take what is left.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from cispo.config import LearnerConfig
from cispo.errors import LearnerError
from cispo.ports import Progress

_PHASE = "room for the learner"
_POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Seats:
    """Room for all ranks, reserved until `free`.

    Attributes:
        group: Ray's placement group, with a bundle a rank.
        bundles: Which bundle is each rank's.
        nodes: Which node each rank will live on, by Ray's id.
    """

    group: Any
    bundles: tuple[int, ...]
    nodes: tuple[str, ...]

    def strategy(self, rank: int) -> PlacementGroupSchedulingStrategy:
        """What Ray is told, to start a rank in its seat."""
        return PlacementGroupSchedulingStrategy(
            placement_group=self.group, placement_group_bundle_index=self.bundles[rank]
        )

    def free(self) -> None:
        """Give the room back; who still sits there is killed."""
        remove_placement_group(self.group)


async def reserve_seats(
    learner: LearnerConfig, *, seconds: float, progress: Progress | None = None
) -> Seats:
    """Wait until there is room for all ranks at once, and reserve it.

    Args:
        learner: The number of ranks and their resources.
        seconds: Wall time to wait.
        progress: Told what is waited for.

    Raises:
        LearnerError: There is not, in that time.
    """
    room = {"CPU": learner.num_cpus, "GPU": learner.num_gpus}
    bundle = {kind: number for kind, number in room.items() if number > 0} or {"CPU": 0.001}
    group = placement_group([bundle] * learner.num_ranks, strategy="PACK")
    deadline = time.monotonic() + seconds
    if progress:
        progress.start(_PHASE, 1)
        progress.waiting(_PHASE, f"{learner.num_ranks} ranks")
    try:
        while (table := placement_group_table(group))["state"] != "CREATED":
            if time.monotonic() >= deadline:
                raise LearnerError(_no_room(learner))
            await asyncio.sleep(_POLL_SECONDS)
    except BaseException:
        remove_placement_group(group)
        raise
    if progress:
        progress.finish(_PHASE)
    nodes = [table["bundles_to_node_id"][index] for index in range(learner.num_ranks)]
    bundles = seating(nodes)
    return Seats(group, bundles, tuple(nodes[bundle] for bundle in bundles))


def seating(nodes: Sequence[str]) -> tuple[int, ...]:
    """Which bundle each rank gets: node after node, the one with most bundles first.

    Args:
        nodes: Of each bundle.
    """
    counts = Counter(nodes)
    return tuple(
        sorted(range(len(nodes)), key=lambda b: (-counts[nodes[b]], nodes.index(nodes[b]), b))
    )


def _no_room(learner: LearnerConfig) -> str:
    free = ray.available_resources()
    return (
        f"no room for learner.num_ranks={learner.num_ranks} with learner.num_cpus="
        f"{learner.num_cpus:g} and learner.num_gpus={learner.num_gpus:g} each; the cluster has "
        f"{free.get('CPU', 0.0):g} CPUs and {free.get('GPU', 0.0):g} GPUs free"
    )
