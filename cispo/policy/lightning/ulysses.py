"""Softmax attention over a shared row: every rank gets all tokens of some heads, and back."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from cispo.policy.lightning.exchange import exchanged
from cispo.policy.lightning.shared_row import SharedRow

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def heads_of_a_rank(num_heads: int, num_kv_heads: int, num_ranks: int) -> tuple[int, int]:
    """Query heads, and key and value heads, with which one of R ranks attends.

    Key heads are repeated until R divides their number; R divides the number of query heads.
    """
    return num_heads // num_ranks, math.lcm(num_kv_heads, num_ranks) // num_ranks


def attend_by_heads(q: Tensor, k: Tensor, v: Tensor, attend: Attend, row: SharedRow) -> Tensor:
    """DeepSpeed-Ulysses (arXiv 2309.14509): two exchanges of which each rank sends 1/R to each.

    Args:
        q: [n, H, D] of this rank's piece.
        k: [n, KVH, D].
        v: [n, KVH, D].
        attend: Attention over all T tokens, of as many heads as `heads_of_a_rank` says.
        row: What is shared.

    Returns:
        [n, H, D].
    """
    (n, H, D), KVH, R = q.shape, k.shape[1], row.ranks.size
    own, own_kv = heads_of_a_rank(H, KVH, R)
    # [n, R, own heads, D], queries before keys before values
    heads = torch.cat(
        (
            q.view(n, R, own, D),
            *(x.repeat_interleave(R * own_kv // KVH, 1).view(n, R, own_kv, D) for x in (k, v)),
        ),
        dim=2,
    )
    here = [n] * R
    sent = heads.transpose(0, 1).reshape(R * n, own + 2 * own_kv, D)
    rows = exchanged(sent, here, row.sizes, row.ranks)
    output = attend(*rows.split_with_sizes((own, own_kv, own_kv), dim=1))
    back = exchanged(output, row.sizes, here, row.ranks)
    return back.view(R, n, own, D).transpose(0, 1).reshape(n, H, D)
