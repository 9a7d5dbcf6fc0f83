"""Where the tokens of a packed row go in lightning layers: slabs of chunks of one size."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

import torch
from torch import Tensor

_MOST_SCORES = {"cpu": 2**19}
"""Scores that exist at once: few enough for a CPU's cache, and plenty for a GPU's cores."""
_MOST_SCORES_ELSEWHERE = 2**25


@dataclass(frozen=True, slots=True)
class ChunkRows:
    """Sequences cut into chunks of C tokens that start at the sequence's start.

    Rows of chunks are ordered by the chunk's index in its sequence, and within one index by
    descending number of chunks, so the sequences that reach chunk c + 1 are the first of chunk c.

    Attributes:
        block: C.
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

    @property
    def steps(self) -> list[tuple[slice, slice]]:
        """Rows of each chunk index that are followed by others, and those that follow them."""
        starts = accumulate(self.counts, initial=0)
        return [
            (slice(row, row + following), slice(row + here, row + here + following))
            for row, (here, following) in zip(starts, pairwise(self.counts), strict=False)
        ]

    @property
    def runs(self) -> list[tuple[slice, slice]]:
        """The same in as few and as long slices as hold all pairs."""
        runs: list[tuple[slice, slice]] = []
        for rows, followers in self.steps:
            if runs and runs[-1][0].stop == rows.start:
                first, second = runs.pop()
                runs.append((slice(first.start, rows.stop), slice(second.start, followers.stop)))
            else:
                runs.append((rows, followers))
        return runs


def chunk_rows(starts: Tensor, *, block: int, num_heads: int) -> ChunkRows:
    """Cut packed sequences ([S + 1] int64 boundaries) into chunks of `block` tokens."""
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
    return ChunkRows(
        block=block,
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
class Slab:
    """Neighbouring tokens of a packed row that are computed at once.

    A long sequence is cut between slabs, always at a multiple of C tokens from its start, so that
    its chunks are the same whatever stands before it.

    Attributes:
        tokens: Place in the packed row.
        sequences: Those that have tokens here, and empty ones beside them.
        is_continued: Whether the first of them began in the slab before.
        is_cut: Whether the last of them goes on in the slab after.
        rows: The chunks.
    """

    tokens: slice
    sequences: slice
    is_continued: bool
    is_cut: bool
    rows: ChunkRows


@dataclass(frozen=True, eq=False)
class ChunkLayout:
    """Packed sequences in chunks.

    Attributes:
        starts: [S + 1] int64 boundaries of the sequences.
        block: C.
        num_heads: H.
    """

    starts: Tensor
    block: int
    num_heads: int

    @property
    def num_sequences(self) -> int:
        """S, empty ones included."""
        return len(self.starts) - 1

    @cached_property
    def slabs(self) -> tuple[Slab, ...]:
        """All tokens in order; one empty slab where there are none. Made when first asked for."""
        device = self.starts.device
        scores = _MOST_SCORES.get(device.type, _MOST_SCORES_ELSEWHERE)
        most_rows = max(1, scores // (self.num_heads * self.block**2))
        slabs = []
        is_continued = False
        for first, bounds, is_cut in _cut(self.starts.tolist(), self.block, most_rows):
            inside = torch.tensor(bounds, device=device) - bounds[0]
            slab = Slab(
                tokens=slice(bounds[0], bounds[-1]),
                sequences=slice(first, first + len(bounds) - 1),
                is_continued=is_continued,
                is_cut=is_cut,
                rows=chunk_rows(inside, block=self.block, num_heads=self.num_heads),
            )
            slabs.append(slab)
            is_continued = is_cut
        return tuple(slabs)


def chunk_layout(cu_seqlens: Tensor, *, block: int, num_heads: int) -> ChunkLayout:
    """Cut packed sequences ([S + 1] boundaries) into chunks of `block` tokens."""
    return ChunkLayout(starts=cu_seqlens.long(), block=block, num_heads=num_heads)


def _cut(starts: list[int], block: int, most_rows: int) -> Iterator[tuple[int, list[int], bool]]:
    """Yield each slab's first sequence, its boundaries, and whether its last sequence is cut."""
    first, bounds, rows = 0, [starts[0]], 0
    for sequence, end in enumerate(starts[1:]):
        while (needed := -(-(end - bounds[-1]) // block)) > most_rows - rows:
            is_cut = rows < most_rows
            if is_cut:
                bounds.append(bounds[-1] + (most_rows - rows) * block)
            yield first, bounds, is_cut
            first, bounds, rows = sequence, [bounds[-1]], 0
        bounds.append(end)
        rows += needed
    yield first, bounds, False


def moved(rows: slice, by: int) -> slice:
    """The same rows where counting starts `by` rows later."""
    return slice(rows.start - by, rows.stop - by)


def flat(chunks: Tensor) -> Tensor:
    """[R, H, ...] chunks as one batch of matrices [R H, ...]."""
    return chunks.flatten(0, 1)
