"""Softmax attention with grouped queries, over packed sequences and over key-value buffers."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from cispo.policy.lightning.config import LightningConfig
from cispo.policy.lightning.layout import BucketLayout
from cispo.policy.lightning.rotary import Rotation, rotate
from cispo.policy.lightning.state import KV_BLOCK


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
        self.q_proj = nn.Linear(width, inner, bias=False)
        self.k_proj = nn.Linear(width, kv_inner, bias=False)
        self.v_proj = nn.Linear(width, kv_inner, bias=False)
        self.o_proj = nn.Linear(inner, width, bias=False)

    def project(self, x: Tensor, by: Rotation) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [N, H, D], keys and values [N, KVH, D] of x [N, d], queries and keys rotated."""
        q = self.q_proj(x).view(len(x), self.num_heads, -1)
        k = self.k_proj(x).view(len(x), self.num_kv_heads, -1)
        v = self.v_proj(x).view(len(x), self.num_kv_heads, -1)
        return rotate(q, by), rotate(k, by), v

    def forward(
        self, x: Tensor, by: Rotation, queries: BucketLayout, keys: BucketLayout
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Attend over packed x [T, d]; return the output [T, d], keys and values [T, KVH, D]."""
        q, k, v = self.project(x, by)
        output = packed_attention(q, k, v, queries=queries, keys=keys)
        return self.o_proj(output.flatten(1)), k, v

    def step(
        self, x: Tensor, by: Rotation, keys: Tensor, values: Tensor, lengths: Tensor, window: int
    ) -> Tensor:
        """Attend from one new token a row, x [N, d], appending to buffers [N, KVH, capacity, D].

        `lengths` [N] counts the tokens before this one; `window` is a multiple of 64 above all.
        """
        q, k, v = self.project(x, by)
        N, H, D = q.shape
        rows = torch.arange(N, device=x.device)
        keys[rows, :, lengths] = k.to(keys.dtype)
        values[rows, :, lengths] = v.to(values.dtype)
        seen_keys = keys[:, :, :window].flatten(0, 1)
        seen_values = values[:, :, :window].flatten(0, 1)
        grouped = q.reshape(N * self.num_kv_heads, H // self.num_kv_heads, D)
        scores = torch.bmm(grouped, seen_keys.transpose(1, 2)).float().mul_(D**-0.5)
        future = torch.arange(window, device=x.device) > lengths.view(-1, 1)
        scores.view(N, H, window).masked_fill_(future.unsqueeze(1), -torch.inf)
        output = torch.bmm(torch.softmax(scores, dim=-1).to(seen_values.dtype), seen_values)
        y: Tensor = self.o_proj(output.view(N, H * D))
        return y


def window_of(longest: int) -> int:
    """Tokens of the buffers that a step reads when the longest row has seen `longest` tokens."""
    return (longest // KV_BLOCK + 1) * KV_BLOCK
