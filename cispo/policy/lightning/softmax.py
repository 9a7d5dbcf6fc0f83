"""Softmax attention with grouped queries, over packed sequences and over pages."""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from cispo.policy.lightning.config import LightningConfig
from cispo.policy.lightning.layout import BucketLayout
from cispo.policy.lightning.pages import append, gather
from cispo.policy.lightning.prefill import Prefill
from cispo.policy.lightning.projection import Projection
from cispo.policy.lightning.rotary import Rotation, rotate
from cispo.policy.lightning.shared_row import SharedRow
from cispo.policy.lightning.ulysses import attend_by_heads

_QUERY_BLOCK = 128
"""Queries whose scores against a whole prompt exist at once."""


class _Pad(torch.autograd.Function):
    """Heads [T, H, D] -> padded rows [P, D]; the gradient of padding is dropped."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layout: BucketLayout) -> Tensor:
        ctx.layout, ctx.shape = layout, x.shape
        return x.reshape(-1, x.shape[-1]).index_select(0, layout.gather)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.index_select(0, ctx.layout.scatter).view(ctx.shape), None


class _Unpad(torch.autograd.Function):
    """Padded rows [P, D] -> heads [T, H, D]; padding gets a gradient of zero."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layout: BucketLayout, num_heads: int) -> Tensor:
        ctx.layout = layout
        return x.index_select(0, layout.scatter).view(-1, num_heads, x.shape[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        rows = grad.reshape(-1, grad.shape[-1]).index_select(0, ctx.layout.gather)
        return rows.mul_(ctx.layout.valid), None, None


def packed_attention(
    q: Tensor, k: Tensor, v: Tensor, *, queries: BucketLayout, keys: BucketLayout
) -> Tensor:
    """Causal attention within each packed sequence; q [T, H, D], k and v [T, KVH, D] -> [T, H, D].

    Costs the sum of squared lengths, not the square of the row's length.
    """
    H, D = q.shape[1:]
    query, key, value = _split(q, queries), _split(k, keys), _split(v, keys)
    outputs = [
        F.scaled_dot_product_attention(*part, is_causal=True, enable_gqa=k.shape[1] != H)
        for part in zip(query, key, value, strict=True)
    ]
    flat = [output.reshape(-1, D) for output in outputs]
    unpadded: Tensor = _Unpad.apply(  # type: ignore[no-untyped-call]
        flat[0] if len(flat) == 1 else torch.cat(flat), queries, H
    )
    return unpadded


def _split(x: Tensor, layout: BucketLayout) -> list[Tensor]:
    """Heads [T, H, D] -> one [sequences, H, padded length, D] a bucket."""
    num_heads, D = x.shape[1:]
    rows = _Pad.apply(x, layout)  # type: ignore[no-untyped-call]
    sizes = [count * num_heads * length for count, length in layout.buckets]
    parts = [rows] if len(sizes) == 1 else torch.split(rows, sizes)
    shapes = [(count, num_heads, length, D) for count, length in layout.buckets]
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


class SoftmaxAttention(nn.Module):
    """Grouped-query attention whose heads are rotated on their first `rotary_dim` dimensions."""

    def __init__(self, config: LightningConfig) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.num_kv_heads = config.num_key_value_heads
        width, inner = config.hidden_size, self.num_heads * config.head_dim
        kv_inner = self.num_kv_heads * config.head_dim
        self.q_proj = Projection(width, inner)
        self.k_proj = Projection(width, kv_inner)
        self.v_proj = Projection(width, kv_inner)
        self.o_proj = Projection(inner, width)

    def project(self, x: Tensor, by: Rotation) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [N, H, D], keys and values [N, KVH, D] of x [N, d], queries and keys rotated.

        They are operands: rounded to the weights' dtype.
        """
        dtype = self.q_proj.weight.dtype
        q = self.q_proj(x).unflatten(1, (self.num_heads, -1))
        k = self.k_proj(x).unflatten(1, (self.num_kv_heads, -1))
        v = self.v_proj(x).unflatten(1, (self.num_kv_heads, -1))
        return rotate(q, by).to(dtype), rotate(k, by).to(dtype), v.to(dtype)

    def forward(
        self,
        x: Tensor,
        by: Rotation,
        queries: BucketLayout,
        keys: BucketLayout,
        row: SharedRow | None = None,
    ) -> Tensor:
        """Attend over packed x [T, d], or with a shared row over its piece; return the same shape.

        The buckets are those of the whole row, and of as many heads as one rank attends with.
        """
        attend = partial(packed_attention, queries=queries, keys=keys)
        heads = self.project(x, by)
        output = attend(*heads) if row is None else attend_by_heads(*heads, attend, row)
        y: Tensor = self.o_proj(output.flatten(1))
        return y

    def prefill(self, x: Tensor, plan: Prefill, pages: Tensor) -> Tensor:
        """Attend over packed x [T, d] and the pages before it, [P, 2, KVH, PAGE, D], and append."""
        q, k, v = self.project(x, plan.rotation)
        append(pages, plan.page, plan.offset, (k[: len(plan.page)], v[: len(plan.page)]))
        output = torch.empty_like(q)
        if plan.fresh is not None:
            of = plan.fresh
            output[of.tokens] = packed_attention(
                q[of.tokens], k[of.tokens], v[of.tokens], queries=of.queries, keys=of.keys
            )
        for part in plan.continued:
            keys, values = (cached.to(q.dtype) for cached in gather(pages, part.table))
            output[part.tokens] = continued_attention(q[part.tokens], keys, values, seen=part.seen)
        y: Tensor = self.o_proj(output.flatten(1))
        return y


def continued_attention(q: Tensor, keys: Tensor, values: Tensor, *, seen: int) -> Tensor:
    """Attend from the tokens of one sequence that follow its first `seen` ones.

    Args:
        q: [n, H, D].
        keys: [1, KVH, S, D], S >= seen + n; what lies behind is not read.
        values: Like the keys.
        seen: Tokens before the first query.

    Returns:
        [n, H, D].
    """
    n, H, _ = q.shape
    query = q.transpose(0, 1).unsqueeze(0)
    outputs = []
    for start in range(0, n, _QUERY_BLOCK):  # bounds the mask
        stop = min(start + _QUERY_BLOCK, n)
        reach = seen + torch.arange(start, stop, device=q.device).view(-1, 1)
        mask = torch.arange(seen + stop, device=q.device) <= reach
        outputs.append(
            F.scaled_dot_product_attention(
                query[:, :, start:stop],
                keys[:, :, : seen + stop],
                values[:, :, : seen + stop],
                attn_mask=mask,
                enable_gqa=keys.shape[1] != H,
            )
        )
    return torch.cat(outputs, dim=2)[0].transpose(0, 1)
