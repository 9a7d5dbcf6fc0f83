"""Which sequences share a micro-batch, and which micro-batches run together (stdlib only)."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PassPlan:
    """Forward and backward passes of one update; in each pass every rank has one micro-batch.

    Attributes:
        passes: Positions of sequences by pass and rank, longest first. Nothing where a rank has
            nothing left, which it must fill: a pass is a collective.
        padding_fraction: What ranks compute in vain or wait for each other, over the tokens: (the
            largest micro-batch of each pass, summed) x ranks / tokens - 1.
    """

    passes: tuple[tuple[tuple[int, ...], ...], ...]
    padding_fraction: float


def plan_passes(
    lengths: Sequence[int],
    *,
    micro_batch_tokens: int,
    num_ranks: int = 1,
    pads_rows: bool = False,
) -> PassPlan:
    """Fill one pass after another up to the budget, on all ranks evenly.

    Longest first, always to the rank with the fewest tokens in this pass; what does not fit there
    fits nowhere, and waits for the next pass while shorter ones fill the gaps. Long sequences thus
    run beside each other, and short ones are left to even out the last pass. A sequence above the
    budget gets a micro-batch of its own. The plan is a function of its arguments, so that all ranks
    make the same one.

    Args:
        lengths: Tokens of each sequence, prompt included; at least one.
        micro_batch_tokens: Budget of a micro-batch.
        num_ranks: Ranks that run a pass together.
        pads_rows: Whether the model pads the sequences of a micro-batch to the longest of them; the
            padding then counts, so that sequences of like lengths are put together.
    """

    def size(part: Sequence[int]) -> int:
        first = lengths[part[0]]
        return first * len(part) if pads_rows else sum(lengths[i] for i in part)

    waiting = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    shortest = lengths[waiting[-1]]
    passes: list[tuple[tuple[int, ...], ...]] = []
    padded = 0
    while waiting:
        parts: list[list[int]] = [[] for _ in range(num_ranks)]
        emptiest = [(0, rank) for rank in range(num_ranks)]
        too_long = []
        for index in waiting:
            filled, rank = emptiest[0]
            part = parts[rank]
            added = lengths[part[0]] if part and pads_rows else lengths[index]
            if part and filled + added > micro_batch_tokens:
                too_long.append(index)
                continue
            part.append(index)
            heapq.heapreplace(emptiest, (filled + added, rank))
        waiting = too_long
        passes.append(tuple(map(tuple, parts)))
        padded += max(size(part) if part else shortest for part in parts)
    return PassPlan(passes=tuple(passes), padding_fraction=padded * num_ranks / sum(lengths) - 1.0)
