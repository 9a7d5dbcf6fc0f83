"""The ranks that share a packed row, as two collectives; over NCCL they are unverified so far."""

from collections.abc import Sequence
from typing import Protocol

import torch.distributed as dist
from torch import Tensor


class Ranks(Protocol):
    """R processes that compute one row together; each calls the same methods in the same order."""

    @property
    def rank(self) -> int:
        """This one, from 0."""

    @property
    def size(self) -> int:
        """R."""

    def gather(self, x: Tensor) -> Tensor:
        """Tensors x [...] of one shape from all ranks, [R, ...]; without a gradient."""

    def exchange(self, x: Tensor, sent: Sequence[int], received: Sequence[int]) -> Tensor:
        """Send rows of x to every rank and get theirs; without a gradient.

        Args:
            x: [sum of sent, ...] rows for rank 0, then those for rank 1, and so on.
            sent: Rows for each rank.
            received: Rows from each rank.

        Returns:
            [sum of received, ...] rows from rank 0, then those from rank 1, and so on.
        """


class GroupRanks:
    """`Ranks` over torch's process group; tested with gloo, and not yet with NCCL.

    Args:
        group: The processes, in order of their pieces.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self._group = group
        self.rank = dist.get_rank(group)
        self.size = dist.get_world_size(group)

    def gather(self, x: Tensor) -> Tensor:
        """See `Ranks.gather`."""
        gathered = x.new_empty(self.size, *x.shape)
        dist.all_gather(list(gathered.unbind()), x.contiguous(), group=self._group)
        return gathered

    def exchange(self, x: Tensor, sent: Sequence[int], received: Sequence[int]) -> Tensor:
        """See `Ranks.exchange`."""
        rows = x.new_empty(sum(received), *x.shape[1:])
        dist.all_to_all_single(rows, x.contiguous(), list(received), list(sent), group=self._group)
        return rows


def neighbouring_ranks(count: int) -> GroupRanks:
    """Divide all processes into groups of `count` consecutive ones, and return this one's.

    Every process of the default group calls it; `count` divides their number.
    """
    group, _ = dist.new_subgroups(group_size=count)  # type: ignore[no-untyped-call]
    assert group is not None
    return GroupRanks(group)
