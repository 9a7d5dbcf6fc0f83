"""Cuts unlikely tokens off distributions and draws from what is left, row by row."""

from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

_CANDIDATES = (64, 1024)
"""How many of the likeliest tokens are looked at first; nearly every row is settled by them."""

_LAST_ID = np.uint64(2**32 - 1)


class _Columns(NamedTuple):
    temperature: Tensor
    top_p: Tensor
    top_k: Tensor
    min_p: Tensor


class SamplingRows(_Columns):
    """Settings of each row, which do not change once they have been asked for what they hold.

    Attributes:
        temperature: [N] float32, > 0.
        top_p: [N] float64, in (0, 1].
        top_k: [N] int64, 0 keeps all.
        min_p: [N] float32, in [0, 1).
    """

    @cached_property
    def has_temperature(self) -> bool:
        """Whether a row's temperature is not 1."""
        return bool((self.temperature != 1.0).any())

    @cached_property
    def truncated(self) -> Tensor:
        """Rows that keep only likely tokens, [n]."""
        truncates = (self.top_p < 1.0) | (self.top_k > 0) | (self.min_p > 0.0)
        return truncates.nonzero()[:, 0]

    def rows(self, index: Tensor) -> "SamplingRows":
        """Return the settings of some rows."""
        return SamplingRows(*(column[index] for column in self))


def draw_truncated(
    mass: Tensor,
    total: Tensor,
    noise: Tensor,
    settings: SamplingRows,
) -> tuple[Tensor, Tensor]:
    """Draw one token a row from what top-k, top-p and min-p keep.

    Only rows that their likeliest tokens do not settle are ranked further, up to the whole
    vocabulary. Which way a row goes depends on that row alone.

    Args:
        mass: [N, V] float32, unnormalised probabilities.
        total: [N] float64, their sums.
        noise: [N] float64 in [0, 1).
        settings: One row each.

    Returns:
        The tokens [N] int64, and the kept mass [N] float64.
    """
    vocabulary = mass.shape[1]
    top_k = torch.where(settings.top_k > 0, settings.top_k.clamp(max=vocabulary), vocabulary)
    drawn, kept = torch.empty_like(top_k), torch.empty_like(total)
    rows = torch.arange(len(mass), device=mass.device)
    for count in (*_CANDIDATES, vocabulary):
        part = mass if len(rows) == len(mass) else mass[rows]
        values, ids = _ranked(part, min(count, vocabulary))
        drawn[rows], kept[rows], is_settled = _draw_ranked(
            values, ids, total[rows], noise[rows], top_k[rows], settings.rows(rows), vocabulary
        )
        if count >= vocabulary or bool(is_settled.all()):
            break
        rows = rows[~is_settled]
    return drawn, kept


def _ranked(mass: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the largest values and their ids, both [N, count], descending, then by id."""
    if mass.device.type != "cpu":
        values, ids = mass.sort(dim=-1, descending=True, stable=True)
        return values[:, :count], ids[:, :count]
    # Floats that are not negative are ordered as their bits; numpy sorts such keys ten times as
    # fast as torch sorts floats.
    vocabulary = mass.shape[1]
    keys = mass.numpy().view(np.uint32).astype(np.uint64)
    keys <<= np.uint64(32)
    keys |= _LAST_ID - np.arange(vocabulary, dtype=np.uint64)
    if count < vocabulary:
        keys = np.partition(keys, vocabulary - count, axis=-1)[:, vocabulary - count :]
    keys = np.ascontiguousarray(np.sort(keys, axis=-1)[:, ::-1])
    largest = (keys >> np.uint64(32)).astype(np.uint32).view(np.float32)
    tokens = (_LAST_ID - (keys & _LAST_ID)).astype(np.int64)
    return torch.from_numpy(largest), torch.from_numpy(tokens)


def _draw_ranked(
    values: Tensor,
    ids: Tensor,
    total: Tensor,
    noise: Tensor,
    top_k: Tensor,
    settings: SamplingRows,
    vocabulary: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw from tokens ranked by mass [N, C], whose `ids` those are.

    Returns:
        The tokens [N], the kept mass [N], and [N] bool, False where more tokens may belong to it.
    """
    size = values.shape[1]
    ends = values.cumsum(dim=-1, dtype=torch.float64)
    last_of_k = (top_k - 1).clamp(max=size - 1)
    whole = torch.where(top_k <= size, ends.gather(1, last_of_k[:, None])[:, 0], total)
    limit = torch.where(settings.top_p < 1.0, settings.top_p * whole, torch.inf)
    keep = torch.nn.functional.pad(ends[:, :-1], (1, 0)) < limit[:, None]
    keep &= values >= settings.min_p[:, None] * values[:, :1]
    keep &= torch.arange(size, device=values.device) < top_k[:, None]
    keep[:, 0] = True
    num_kept = keep.sum(dim=-1)
    kept = ends.gather(1, (num_kept - 1)[:, None])[:, 0]
    choice = (ends <= (noise * kept)[:, None]).sum(dim=-1).minimum(num_kept - 1)
    # behind a cut nothing is kept, unless a part of the mass that top-p refers to was not seen
    is_settled = (top_k <= size) | (
        (num_kept < size) & ((top_k == vocabulary) | (settings.top_p == 1.0))
    )
    return ids.gather(1, choice[:, None])[:, 0], kept, is_settled
