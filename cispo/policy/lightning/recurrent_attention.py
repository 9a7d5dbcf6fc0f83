"""The recurrent form of both kinds of attention: one token a row, in few operations."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from cispo.policy.lightning.config import LightningConfig
from cispo.policy.lightning.decay import decay_tables
from cispo.policy.lightning.linear import LightningAttention
from cispo.policy.lightning.norm import NormRows
from cispo.policy.lightning.pages import PAGE, append, gather
from cispo.policy.lightning.projection import product
from cispo.policy.lightning.rotary import Rotation, rotate, rotation
from cispo.policy.lightning.row_matrix import RowMatrix, doubled, rounded
from cispo.policy.lightning.softmax import SoftmaxAttention
from cispo.policy.lightning.state import DecodeState


class Places(NamedTuple):
    """Where softmax layers find what N rows have seen, and put the new token.

    Attributes:
        table: [N, W] pages of each row, that of the new token included.
        page: [N] page of the new token.
        offset: [N] its place there.
        future: [N, 1, W * PAGE] True at what lies behind the new token.
        rotation: Of the new token.
    """

    table: Tensor
    page: Tensor
    offset: Tensor
    future: Tensor
    rotation: Rotation


def find_places(state: DecodeState, count: int, config: LightningConfig) -> Places:
    """Find the places of one more token of each of the first `count` rows; pages are reserved."""
    lengths = state.lengths[:count]
    width = int(lengths.max()) // PAGE + 1
    table = state.page_table[:count, :width].long()
    seen = lengths.view(-1, 1)
    behind = torch.arange(width * PAGE, device=table.device) > seen
    return Places(
        table=table,
        page=table.gather(1, seen // PAGE)[:, 0],
        offset=lengths % PAGE,
        future=behind.unsqueeze(1),
        rotation=rotation(lengths, rotary_dim=config.rotary_dim, theta=config.rope_theta),
    )


class LightningRows:
    """See `LightningAttention`."""

    def __init__(self, attention: LightningAttention) -> None:
        self._heads = H, D = attention.num_heads, attention.head_dim
        qkv = attention.qkv_proj.weight.view(H, 3, D, -1).transpose(0, 1).flatten(0, 2)
        self._inputs = RowMatrix(qkv, attention.output_gate.weight)
        self._output = RowMatrix(attention.out_proj.weight)
        self._dtype = attention.out_proj.weight.dtype
        self._norm = NormRows(attention.norm)
        self._loss = decay_tables(attention.slopes, 1, torch.float32, qkv.device).loss

    def __call__(self, x: Tensor, state: Tensor, _: Places | None = None) -> Tensor:
        """Attend from x [M, d], updating the states [N, H, D, D] in place; one row is given twice.

        S += k v^T - (1 - lambda) S, because lambda rounded to float32 drifts over long sequences.
        """
        N, (H, D) = len(state), self._heads
        qkv, gate = self._inputs(x).split_with_sizes((3 * H * D, H * D), dim=1)
        qkv = rounded(F.silu(qkv, inplace=True), self._dtype)[:N]
        q, k, v = qkv.view(N, 3, H, D).unbind(1)
        state.addcmul_(state, self._loss).addcmul_(k.unsqueeze(-1), v.unsqueeze(-2))
        o = torch.bmm(q.reshape(N * H, 1, D), state.view(N * H, D, D)).view(N, H * D)
        return self._output(gate.sigmoid_().mul_(self._norm(rounded(o, self._dtype))))


class SoftmaxRows:
    """See `SoftmaxAttention`."""

    def __init__(self, attention: SoftmaxAttention) -> None:
        self._heads = attention.num_heads, attention.num_kv_heads
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        self._inputs = RowMatrix(*(projection.weight for projection in projections))
        self._output = RowMatrix(attention.o_proj.weight)
        self._dtype = attention.o_proj.weight.dtype

    def __call__(self, x: Tensor, pages: Tensor, places: Places | None) -> Tensor:
        """Attend from x [M, d], appending to pages [P, 2, KVH, PAGE, D]; one row is given twice."""
        assert places is not None
        N, (H, KVH) = len(places.table), self._heads
        qk, v = self._inputs(x)[:N].view(N, H + 2 * KVH, -1).split_with_sizes((H + KVH, KVH), dim=1)
        q, k = rotate(qk, places.rotation).to(self._dtype).split_with_sizes((H, KVH), dim=1)
        append(pages, places.page, places.offset, (k, v.to(self._dtype)))
        keys, values = (c.to(q.dtype).flatten(0, 1) for c in gather(pages, places.table))
        D = keys.shape[-1]
        grouped = q.reshape(N * KVH, H // KVH, D)
        scores = product(grouped, keys.transpose(1, 2)).mul_(D**-0.5)
        scores.view(N, H, -1).masked_fill_(places.future, -torch.inf)
        output = product(torch.softmax(scores, dim=-1).to(values.dtype), values)
        return self._output(doubled(output.view(N, H * D)))
