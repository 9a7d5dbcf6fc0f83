"""How fast each head forgets: slopes s, decays exp(-s) and their powers within a chunk."""

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

RELEASED = "released"
TRANSFORMERS = "transformers"
"""Rules for the slopes: MiniMax's released code, and the model of that name in transformers."""


def head_slopes(num_heads: int) -> list[float]:
    """ALiBi slopes 2^(-8 (h+1) / H), interpolated where H is not a power of two."""
    power = 2 ** math.floor(math.log2(num_heads))
    slopes = [2.0 ** (-8.0 * (h + 1) / power) for h in range(power)]
    if power < num_heads:
        slopes += head_slopes(2 * power)[0::2][: num_heads - power]
    return slopes


def layer_slopes(
    num_heads: int, *, layer: int, num_layers: int, rule: str = RELEASED
) -> tuple[float, ...]:
    """Slopes s of one layer's heads: ALiBi's times 1 - l/(L-1) + 1e-5; deep layers forget less.

    The rule of transformers divides by L - 1 + 1e-5, which is up to twice the last layer's slope
    and nothing to speak of elsewhere, and takes 2^(-8 (h+1) / H) for any number of heads H.
    """
    last = max(num_layers - 1, 1)
    if rule == TRANSFORMERS:
        factor = 1.0 - layer / (last + 1e-5) + 1e-5
        return tuple(2.0 ** (-8.0 * (h + 1) / num_heads) * factor for h in range(num_heads))
    factor = 1.0 - layer / last + 1e-5
    return tuple(slope * factor for slope in head_slopes(num_heads))


class DecayTables(NamedTuple):
    """Powers of each head's decay within a chunk of C tokens.

    Attributes:
        mask: [H, C, C] lambda^(i-j) where j <= i, else 0.
        query: [H, C, 1] lambda^(i+1).
        key: [H, C, 1] lambda^(C-1-j).
        loss: [H, 1, 1] lambda^C - 1, exact where lambda is near one.
        losses: [H, C, 1] lambda^(i+1) - 1, whose last one is `loss`.
    """

    mask: Tensor
    query: Tensor
    key: Tensor
    loss: Tensor
    losses: Tensor


@lru_cache(maxsize=256)
def decay_tables(
    slopes: tuple[float, ...], block: int, dtype: torch.dtype, device: torch.device
) -> DecayTables:
    """Decay tables of heads with slopes s; a pure function, so no weight update can stale it."""
    s = torch.tensor(slopes, dtype=torch.float64).view(-1, 1, 1)
    i = torch.arange(block, dtype=torch.float64)
    distance = i.view(-1, 1) - i.view(1, -1)
    mask = torch.where(distance >= 0, torch.exp(-s * distance.clamp(min=0)), 0.0)
    tables = (
        mask,
        torch.exp(-s * (i.view(-1, 1) + 1)),
        torch.exp(-s * (block - 1 - i.view(-1, 1))),
        torch.expm1(-s * block),
        torch.expm1(-s * (i.view(-1, 1) + 1)),
    )
    return DecayTables(*(table.to(dtype=dtype, device=device) for table in tables))
