"""The recurrent form of the hybrid: one token a row, in as few operations as torch needs.

A step of a few rows takes as long as its operations are many and the weights that they read large,
so projections of one input are one matrix here, results overwrite operands that are not needed any
more, and experts that no row chose are not touched.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from cispo.policy.lightning.config import FULL
from cispo.policy.lightning.layer import LightningLayer
from cispo.policy.lightning.linear import LightningAttention
from cispo.policy.lightning.model import LightningModel
from cispo.policy.lightning.norm import NormRows
from cispo.policy.lightning.recurrent_attention import (
    LightningRows,
    Places,
    SoftmaxRows,
    find_places,
)
from cispo.policy.lightning.recurrent_experts import recurrent_feed_forward
from cispo.policy.lightning.row_matrix import RowMatrix, doubled
from cispo.policy.lightning.state import DecodeState
from cispo.policy.precision import widened


class RecurrentForm:
    """A model's weights as they are now, laid out for decoding; on a CPU, mostly copies of them."""

    @torch.no_grad()
    def __init__(self, model: LightningModel) -> None:
        self._config = model.config
        self._embedding = model.model.embed_tokens.weight.detach()
        self._layers = []
        for layer in model.model.layers:
            assert isinstance(layer, LightningLayer)
            self._layers.append(LayerRows(layer))
        self._norm = NormRows(model.model.norm)
        self._head = RowMatrix(model.lm_head.weight.float())

    @torch.no_grad()
    def step(self, token_ids: Tensor, state: DecodeState, routes: Tensor | None = None) -> Tensor:
        """Read one more token of each of the first N rows of the state, which is updated in place.

        A row's bits depend neither on N nor on the other rows; see `RowMatrix`.

        Args:
            token_ids: [N] int64.
            state: At least N rows.
            routes: See `Stepper`.

        Returns:
            Final-normed hidden states [N, d] float32.
        """
        N = len(token_ids)
        state.reserve(N)
        places = find_places(state, N, self._config) if FULL in self._config.layer_types else None
        x = widened(self._embedding.index_select(0, doubled(token_ids)))
        states, pages = iter(state.linear[:, :N].unbind()), iter(state.pages.unbind())
        chosen = _by_layer(routes, N, len(self._layers))
        for layer, experts in zip(self._layers, chosen, strict=True):
            x = layer(x, next(states if layer.is_linear else pages), places, experts)
        state.lengths[:N].add_(1)
        return self._norm(x)[:N]

    @torch.no_grad()
    def logits(self, hidden: Tensor) -> Tensor:
        """Head in float32: hidden [N, d] -> [N, V]; a row's bits are its own."""
        return self._head(hidden)


class LayerRows:
    """See `LightningLayer`."""

    def __init__(self, layer: LightningLayer) -> None:
        attention = layer.self_attn
        self.is_linear = layer.is_linear
        self._attention = (
            LightningRows(attention)
            if isinstance(attention, LightningAttention)
            else SoftmaxRows(attention)
        )
        self._attention_norm = NormRows(layer.input_layernorm)
        self._expert_norm = NormRows(layer.post_attention_layernorm)
        self._feed_forward = recurrent_feed_forward(layer.block_sparse_moe)
        self._attention_factors, self._expert_factors = (
            layer.attention_factors,
            layer.expert_factors,
        )

    def __call__(
        self, x: Tensor, memory: Tensor, places: Places | None, experts: Tensor | None = None
    ) -> Tensor:
        """Read rows x [M, d], updating the layer's states [N, H, D, D] or its pages.

        One row is given twice. The experts that the rows go to are written to `experts` [N, k].
        """
        normed = self._attention_norm(x)
        x = _residual(normed, self._attention(normed, memory, places), self._attention_factors)
        normed = self._expert_norm(x)
        return _residual(normed, self._feed_forward(normed, experts), self._expert_factors)


def _by_layer(routes: Tensor | None, rows: int, layers: int) -> Sequence[Tensor | None]:
    """Each layer's part [N, k] of the rows' routes [R, L * k]."""
    return [None] * layers if routes is None else routes[:rows].chunk(layers, dim=1)


def _residual(normed: Tensor, y: Tensor, factors: tuple[float, float]) -> Tensor:
    """Alpha x' + beta y, in the place of y."""
    alpha, beta = factors
    return (y if beta == 1.0 else y.mul_(beta)).add_(normed, alpha=alpha)
