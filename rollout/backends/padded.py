"""Decodes rows of different lengths together, for models of transformers that only have softmax."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

_BLOCK = 64
"""Rows are read in multiples of this many tokens: padding behind a row's own tokens, within a fixed
granularity, leaves the row's bits as they are."""

_BATCHED_ATTENTION = ("sdpa", "eager")


class _Layer(DynamicLayer):  # type: ignore[misc]
    """Keys and values of one layer, [rows, heads, tokens, D]; rows begin at their own place 0.

    Attributes:
        places: [N] where the next token of each of the first N rows goes.
        window: Tokens that are read of every row.
    """

    def __init__(self, like: Tensor, capacity: int) -> None:
        super().__init__()
        _, heads, _, D = like.shape
        self.keys: Tensor = like.new_zeros(capacity, heads, _BLOCK, D)
        self.values: Tensor = torch.zeros_like(self.keys)
        self.is_initialized = True
        self.places = torch.zeros(0, dtype=torch.int64)
        self.window = 0

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append one token a row, [N, heads, 1, D]; returns all that is read."""
        N = len(self.places)
        rows = torch.arange(N, device=self.places.device)
        self.keys[rows, :, self.places] = key_states[:, :, 0]
        self.values[rows, :, self.places] = value_states[:, :, 0]
        return self.keys[:N, :, : self.window], self.values[:N, :, : self.window]

    def reserve(self, tokens: int) -> None:
        """Make room for `tokens` tokens a row, by half at least."""
        old = self.keys.shape[2]
        if tokens > old:
            more = -(-max(tokens, old * 3 // 2) // _BLOCK) * _BLOCK - old
            self.keys = torch.nn.functional.pad(self.keys, (0, 0, 0, more))
            self.values = torch.nn.functional.pad(self.values, (0, 0, 0, more))


class PaddedDecoder:
    """All rows in one batch, padded behind their tokens, with positions and masks of their own.

    Args:
        network: A model of which `can_pad` is true.
        capacity: Most rows.
    """

    def __init__(self, network: Any, capacity: int) -> None:
        self._network = network
        self._capacity = capacity
        self._layers: list[_Layer] = []
        self._lengths = torch.zeros(capacity, dtype=torch.int64, device=network.device)

    def add(self, rows: range, cache: Cache, length: int) -> None:
        """Let rows go on from a prompt's cache of one row."""
        if not self._layers:
            self._layers = [_Layer(layer.keys, self._capacity) for layer in cache.layers]
        part = slice(rows.start, rows.stop)
        self._lengths[part] = length
        for layer, prompt in zip(self._layers, cache.layers, strict=True):
            layer.reserve(length)
            layer.keys[part, :, :length] = prompt.keys
            layer.values[part, :, :length] = prompt.values

    def retire(self, rows: list[int], target: Tensor, source: Tensor) -> None:
        """Drop rows; some of the last rows take the places of others, both [n]."""
        target, source = target.to(self._lengths.device), source.to(self._lengths.device)
        if len(target) == 0:
            return
        longest = int(self._lengths[source].max())
        self._lengths[target] = self._lengths[source]
        for layer in self._layers:
            layer.keys[target, :, :longest] = layer.keys[source, :, :longest]
            layer.values[target, :, :longest] = layer.values[source, :, :longest]

    def decode(self, token_ids: Tensor) -> Tensor:
        """Read one more token of each of the first N rows, [N]; returns hidden states [N, d]."""
        lengths = self._lengths[: len(token_ids)]
        window = (int(lengths.max()) // _BLOCK + 1) * _BLOCK
        for layer in self._layers:
            layer.reserve(window)
            layer.places, layer.window = lengths, window
        dtype = self._layers[0].keys.dtype
        is_later = torch.arange(window, device=lengths.device) > lengths[:, None]
        mask = torch.zeros(is_later.shape, dtype=dtype, device=lengths.device)
        mask.masked_fill_(is_later, torch.finfo(dtype).min)
        output = self._network.base_model(
            input_ids=token_ids[:, None],
            position_ids=lengths[:, None],
            attention_mask=mask[:, None, None],
            past_key_values=Cache(layers=self._layers),
            use_cache=True,
        )
        lengths += 1
        hidden: Tensor = output.last_hidden_state[:, -1]
        return hidden


def can_pad(network: Any) -> bool:
    """Whether `PaddedDecoder` computes for a model what the model computes for rows alone.

    Asked of the layers' kind of cache and of attention, and then of the model itself, with two rows
    of different lengths.
    """
    with torch.no_grad():
        tokens = (
            torch.arange(5, device=network.device) % network.config.get_text_config().vocab_size
        )
        prompts = [tokens[:2], tokens[:4]]
        outputs = [network.base_model(input_ids=p[None], use_cache=True) for p in prompts]
        caches = [output.past_key_values for output in outputs]
        is_plain = all(type(layer) is DynamicLayer for layer in caches[0].layers)
        if not is_plain or network.config._attn_implementation not in _BATCHED_ATTENTION:
            return False
        decoder = PaddedDecoder(network, 2)
        for row, (prompt, cache) in enumerate(zip(prompts, caches, strict=True)):
            decoder.add(range(row, row + 1), cache, len(prompt))
        last = tokens[-1:]
        try:
            together = decoder.decode(last.repeat(2))
        except (TypeError, ValueError, IndexError, RuntimeError):
            return False  # it does not take masks of this kind
        alone = torch.cat(
            [network.base_model(input_ids=torch.cat((p, last))[None])[0][:, -1] for p in prompts]
        )
        tolerance = 1e-4 if alone.dtype == torch.float32 else 3e-2
        return bool((together - alone).abs().max() <= tolerance * alone.abs().max())
