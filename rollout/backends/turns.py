"""Decodes the groups of different prompts in turn, for models that cannot be padded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache


@dataclass(slots=True, eq=False)
class _Group:
    """Rows of equal length: those that began together from one prompt.

    Attributes:
        rows: Their numbers, in the order of the cache's rows.
        cache: What the model keeps of them.
        length: Tokens that it has seen.
    """

    rows: list[int]
    cache: Cache
    length: int


class TurnDecoder:
    """One pass a group and step; nothing is ever padded.

    Args:
        network: A causal model with a cache of any kind.
    """

    def __init__(self, network: Any) -> None:
        self._network = network
        self._groups: list[_Group] = []

    def add(self, rows: range, cache: Cache, length: int) -> None:
        """Let rows go on from a prompt's cache of one row, which is used up."""
        cache.batch_repeat_interleave(len(rows))
        self._groups.append(_Group(list(rows), cache, length))

    def retire(self, rows: list[int], target: Tensor, source: Tensor) -> None:
        """Drop rows; some of the last rows take the numbers of others, both [n]."""
        gone = set(rows)
        renamed = dict(zip(source.tolist(), target.tolist(), strict=True))
        for group in self._groups:
            kept = [place for place, row in enumerate(group.rows) if row not in gone]
            if len(kept) < len(group.rows) and kept:
                group.cache.batch_select_indices(torch.tensor(kept, device=self._network.device))
            group.rows = [renamed.get(group.rows[place], group.rows[place]) for place in kept]
        self._groups = [group for group in self._groups if group.rows]

    def decode(self, token_ids: Tensor) -> Tensor:
        """Read one more token of each row, [N]; returns hidden states [N, d]."""
        hidden: Tensor | None = None
        for group in self._groups:
            tokens = token_ids[group.rows, None]
            output = self._network.base_model(
                input_ids=tokens,
                # Given, because transformers' hybrids cannot count what their caches hold.
                position_ids=torch.full_like(tokens, group.length),
                past_key_values=group.cache,
                use_cache=True,
            )
            group.length += 1
            last = output.last_hidden_state[:, -1]
            if hidden is None:
                hidden = last.new_empty(len(token_ids), last.shape[-1])
            hidden[group.rows] = last
        assert hidden is not None, "no row is running"
        return hidden
