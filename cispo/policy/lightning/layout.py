"""Where the tokens of a packed row go in softmax layers: buckets of sequences of similar length."""

from dataclasses import dataclass

import torch
from torch import Tensor

_BUCKET = 64
"""Sequences are padded to a multiple of this on softmax layers: a length of its own for each row,
so that what a sequence computes never depends on its neighbours."""


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


def pad_rows(x: Tensor, count: int) -> Tensor:
    """Add rows of zeros to x [N, ...] until there are `count`; if there are, return x itself."""
    missing = count - len(x)
    return x if missing <= 0 else torch.cat((x, x.new_zeros(missing, *x.shape[1:])))
