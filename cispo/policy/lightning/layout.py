"""Where the tokens of a packed row go: chunks for lightning layers, buckets for softmax layers."""

from dataclasses import dataclass

import torch
from torch import Tensor

_BUCKET = 64
"""Sequences are padded to a multiple of this on softmax layers: a length of its own for each row,
so that what a sequence computes never depends on its neighbours."""


@dataclass(frozen=True, slots=True)
class ChunkLayout:
    """Sequences cut into chunks of C tokens that start at the sequence's start.

    Rows of chunks are ordered by the chunk's index in its sequence, and within one index by
    descending number of chunks, so the sequences that reach chunk c + 1 are the first of chunk c.

    Attributes:
        block: C.
        starts: [S + 1] int64 boundaries of the sequences.
        num_sequences: S, empty ones included.
        counts: Sequences that reach chunk c, descending.
        order: [A] sequence of each row of chunk 0; empty sequences have none.
        last_rows: [A] row of the last chunk of those sequences.
        last_lengths: [A] tokens in that chunk.
        gather: [3 R H C] row of the [T, H, 3] heads for each place; padding repeats the last token.
        scatter: [T H 3] place of each of these rows.
        valid: [R, 1, C, 1] 1.0 on tokens, 0.0 on padding; None without padding.
    """

    block: int
    starts: Tensor
    num_sequences: int
    counts: tuple[int, ...]
    order: Tensor
    last_rows: Tensor
    last_lengths: Tensor
    gather: Tensor
    scatter: Tensor
    valid: Tensor | None

    @property
    def num_rows(self) -> int:
        """R, the number of chunks."""
        return sum(self.counts)


def chunk_layout(cu_seqlens: Tensor, *, block: int, num_heads: int) -> ChunkLayout:
    """Cut packed sequences ([S + 1] boundaries) into chunks of `block` tokens."""
    starts = cu_seqlens.long()
    device = starts.device
    lengths = starts.diff()
    chunks = (lengths + block - 1) // block
    order = torch.argsort(chunks, descending=True, stable=True)
    order = order[: int((chunks > 0).sum())]
    sorted_chunks = chunks[order]
    longest = int(sorted_chunks[0]) if len(order) else 0
    index = torch.arange(longest, device=device)
    counts_tensor = (sorted_chunks.view(1, -1) > index.view(-1, 1)).sum(1)
    offsets = counts_tensor.cumsum(0) - counts_tensor
    num_rows = int(counts_tensor.sum())

    row_chunk = torch.repeat_interleave(index, counts_tensor)
    row_sequence = order[torch.arange(num_rows, device=device) - offsets[row_chunk]]
    inside = torch.arange(block, device=device)
    first = starts[row_sequence] + row_chunk * block
    token = first.view(-1, 1) + inside
    last = starts[row_sequence + 1].view(-1, 1) - 1
    is_valid = token <= last
    token = torch.minimum(token, last)

    heads = torch.arange(num_heads, device=device)
    parts = torch.arange(3, device=device)
    gather = (token.view(1, num_rows, 1, block) * num_heads + heads.view(1, 1, -1, 1)) * 3
    gather = gather + parts.view(3, 1, 1, 1)
    place = torch.arange(gather.numel(), device=device).view(3, num_rows, num_heads, block)
    place = place.permute(1, 3, 2, 0)[is_valid]
    scatter = torch.empty_like(place)
    scatter[token[is_valid]] = place

    last_rows = offsets[sorted_chunks - 1] + torch.arange(len(order), device=device)
    return ChunkLayout(
        block=block,
        starts=starts,
        num_sequences=len(lengths),
        counts=tuple(counts_tensor.tolist()),
        order=order,
        last_rows=last_rows,
        last_lengths=lengths[order] - (sorted_chunks - 1) * block,
        gather=gather.reshape(-1),
        scatter=scatter.reshape(-1),
        valid=None if bool(is_valid.all()) else is_valid.view(num_rows, 1, block, 1).float(),
    )


@dataclass(frozen=True, slots=True)
class BucketLayout:
    """Sequences of similar length padded to one length a bucket, laid out head by head.

    Attributes:
        buckets: (sequences, padded length) of each bucket.
        gather: [P] row of the [T, H] heads for each place; padding repeats the last token.
        scatter: [T H] place of each of these rows.
        valid: [P, 1] 1.0 on tokens, 0.0 on padding.
        sequences: [A] sequence of each padded row, in bucket order.
    """

    buckets: tuple[tuple[int, int], ...]
    gather: Tensor
    scatter: Tensor
    valid: Tensor
    sequences: Tensor


def bucket_layout(cu_seqlens: Tensor, *, num_heads: int) -> BucketLayout:
    """Sort packed sequences ([S + 1] boundaries) into buckets of one padded length."""
    starts = cu_seqlens.long()
    device = starts.device
    padded = (starts.diff() + _BUCKET - 1) // _BUCKET * _BUCKET
    heads = torch.arange(num_heads, device=device).view(1, -1, 1)
    buckets, gathers, valids, sequences = [], [], [], []
    for length in sorted(set(padded.tolist())):
        if length == 0:
            continue
        chosen = (padded == length).nonzero().view(-1)
        token = starts[chosen].view(-1, 1, 1) + torch.arange(length, device=device)
        last = starts[chosen + 1].view(-1, 1, 1) - 1
        valids.append((token <= last).expand(-1, num_heads, -1).reshape(-1))
        gathers.append((torch.minimum(token, last) * num_heads + heads).view(-1))
        buckets.append((len(chosen), length))
        sequences.append(chosen)
    gather = torch.cat(gathers)
    valid = torch.cat(valids)
    scatter = torch.empty(int(starts[-1]) * num_heads, dtype=torch.long, device=device)
    scatter[gather[valid]] = valid.nonzero().view(-1)
    return BucketLayout(
        buckets=tuple(buckets),
        gather=gather,
        scatter=scatter,
        valid=valid.view(-1, 1).float(),
        sequences=torch.cat(sequences),
    )


def positions(cu_seqlens: Tensor) -> Tensor:
    """Position of each packed token in its sequence, [T] int64."""
    starts = cu_seqlens.long()
    first = torch.repeat_interleave(starts[:-1], starts.diff())
    return torch.arange(int(starts[-1]), device=starts.device) - first


def flat(chunks: Tensor) -> Tensor:
    """[R, H, ...] chunks as one batch of matrices [R H, ...]."""
    return chunks.flatten(0, 1)


def pad_rows(x: Tensor, count: int) -> Tensor:
    """Add rows of zeros to x [N, ...] until there are `count`; if there are, return x itself."""
    missing = count - len(x)
    return x if missing <= 0 else torch.cat((x, x.new_zeros(missing, *x.shape[1:])))
