"""Collectives with gradients.

Where ranks exchange parts of a computation, the gradient takes the way back. Where all of them end
up with the same numbers, each goes on to compute the same loss, which counts once: a rank's own
part then has the gradient that this rank found, and nothing is sent.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cispo.policy.lightning.second_derivative import refuse_second_derivative
from cispo.policy.ranks import Ranks


def exchanged(x: Tensor, sent: Sequence[int], received: Sequence[int], ranks: Ranks) -> Tensor:
    """Rows of x for every rank become rows from every rank; see `Ranks.exchange`."""
    rows: Tensor = _Exchanged.apply(x, sent, received, ranks)  # type: ignore[no-untyped-call]
    return rows


class _Exchanged(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, sent: Sequence[int], received: Sequence[int], ranks: Ranks
    ) -> Tensor:
        ctx.sent, ctx.received, ctx.ranks = sent, received, ranks
        return ranks.exchange(x, sent, received)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        refuse_second_derivative()
        return ctx.ranks.exchange(grad, ctx.received, ctx.sent), None, None, None


def joined(x: Tensor, sizes: Sequence[int], ranks: Ranks) -> Tensor:
    """Rows x [n, ...] of all ranks end to end, on all of them.

    Args:
        x: As many rows as `sizes` says for this rank.
        sizes: Rows of each rank.
        ranks: Who has rows.
    """
    rows: Tensor = _Joined.apply(x, sizes, ranks)  # type: ignore[no-untyped-call]
    return rows


class _Joined(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, sizes: Sequence[int], ranks: Ranks) -> Tensor:
        first = sum(sizes[: ranks.rank])
        ctx.own = slice(first, first + len(x))
        padded = F.pad(x, (0, 0) * (x.dim() - 1) + (0, max(sizes) - len(x)))
        parts = zip(ranks.gather(padded), sizes, strict=True)
        return torch.cat([part[:size] for part, size in parts])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad[ctx.own], None, None


def summed(x: Tensor, ranks: Ranks) -> Tensor:
    """The sum of x over ranks, to the same bits on all of them."""
    total: Tensor = _Summed.apply(x, ranks)  # type: ignore[no-untyped-call]
    return total


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, ranks: Ranks) -> Tensor:
        return ranks.gather(x).sum(0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None
