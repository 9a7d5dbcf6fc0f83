"""Where packed tokens go that continue sequences which a state has begun."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cispo.policy.lightning.chunks import ChunkLayout, chunk_layout
from cispo.policy.lightning.config import FULL, LightningConfig
from cispo.policy.lightning.layout import (
    BucketLayout,
    bucket_layout,
    positions,
)
from cispo.policy.lightning.pages import PAGE
from cispo.policy.lightning.rotary import Rotation, rotation
from cispo.policy.lightning.state import DecodeState, page_count


@dataclass(frozen=True, slots=True)
class Fresh:
    """The sequences that begin here; they attend among themselves only.

    Attributes:
        tokens: [F] their places in the packed row.
        queries: Their buckets by query heads.
        keys: Their buckets by key heads.
    """

    tokens: Tensor
    queries: BucketLayout
    keys: BucketLayout


@dataclass(frozen=True, slots=True)
class Continued:
    """A sequence of which the state has seen the beginning.

    Attributes:
        tokens: Its places in the packed row.
        seen: Tokens before them.
        table: [1, W] int64 pages of all its tokens.
    """

    tokens: slice
    seen: int
    table: Tensor


@dataclass(frozen=True, slots=True)
class Prefill:
    """Layouts of packed tokens of S sequences, for all layers.

    Attributes:
        chunks: Of lightning layers.
        rotation: Of every token at its place in its sequence.
        page: [n] page of each token of a softmax layer; padding behind has none.
        offset: [n] its place there.
        fresh: Sequences that begin here, None where all are continued.
        continued: The other ones.
    """

    chunks: ChunkLayout
    rotation: Rotation
    page: Tensor
    offset: Tensor
    fresh: Fresh | None
    continued: tuple[Continued, ...]


def plan_prefill(
    cu_seqlens: Tensor, state: DecodeState, config: LightningConfig, *, num_padding: int
) -> Prefill:
    """Lay out tokens that follow what the first S rows of a state have seen.

    Args:
        cu_seqlens: [S + 1] boundaries, or [S + 2] where padding follows as a sequence of its own.
        state: Pages must be reserved for all tokens.
        config: Of the model.
        num_padding: Tokens of padding.
    """
    starts = cu_seqlens.long()
    counts = starts.diff()
    num_rows = len(counts) - (num_padding > 0)
    seen = state.lengths.new_zeros(len(counts))
    seen[:num_rows] = state.lengths[:num_rows]
    sequence = torch.repeat_interleave(torch.arange(len(counts), device=starts.device), counts)
    place = positions(cu_seqlens) + seen[sequence]
    stored = len(place) - num_padding if FULL in config.layer_types else 0
    is_fresh = seen == 0
    return Prefill(
        chunks=chunk_layout(
            cu_seqlens, block=config.block_size, num_heads=config.num_attention_heads
        ),
        rotation=rotation(place, rotary_dim=config.rotary_dim, theta=config.rope_theta),
        page=state.page_table[sequence[:stored], place[:stored] // PAGE].long(),
        offset=place[:stored] % PAGE,
        fresh=_fresh(starts, is_fresh, sequence, config) if stored else None,
        continued=_continued(starts, seen, state) if stored else (),
    )


def _fresh(
    starts: Tensor, is_fresh: Tensor, sequence: Tensor, config: LightningConfig
) -> Fresh | None:
    if not bool(is_fresh.any()):
        return None
    ends = torch.nn.functional.pad(starts.diff()[is_fresh].cumsum(0), (1, 0))
    queries = bucket_layout(ends, num_heads=config.num_attention_heads)
    is_grouped = config.num_key_value_heads != config.num_attention_heads
    keys = bucket_layout(ends, num_heads=config.num_key_value_heads) if is_grouped else queries
    return Fresh(is_fresh[sequence].nonzero()[:, 0], queries, keys)


def _continued(starts: Tensor, seen: Tensor, state: DecodeState) -> tuple[Continued, ...]:
    parts = []
    for row in seen.nonzero()[:, 0].tolist():
        tokens = slice(int(starts[row]), int(starts[row + 1]))
        before = int(seen[row])
        width = int(page_count(seen[row] + tokens.stop - tokens.start))
        parts.append(Continued(tokens, before, state.page_table[row : row + 1, :width].long()))
    return tuple(parts)
