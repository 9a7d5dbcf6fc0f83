"""Lightning attention in plain torch, all sequences chunk by chunk; see attention.py."""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from cispo.policy.lightning.decay import DecayTables, decay_tables
from cispo.policy.lightning.final_state import final_state, final_state_backward
from cispo.policy.lightning.layout import ChunkLayout, flat
from cispo.policy.lightning.second_derivative import refuse_second_derivative

_SLAB_BYTES = 4 * 2**20
"""Scores of about this size are computed at once, so that they stay in a cache."""


def chunked_attention(
    qkv: Tensor,
    slopes: tuple[float, ...],
    layout: ChunkLayout,
    *,
    initial_state: Tensor | None,
    return_state: bool,
) -> tuple[Tensor, Tensor | None]:
    """Attend as `lightning_attention` does, on any device and in any dtype.

    Autograd over a loop of chunks would cost T^2, because each slice's gradient is a tensor of full
    length; here the backward pass is one more loop.
    """
    output, state = _ChunkedAttention.apply(  # type: ignore[no-untyped-call]
        qkv, initial_state, slopes, layout, return_state
    )
    return output, state


class _ChunkedAttention(torch.autograd.Function):
    """Blocks are [3, R, H, C, D]; states before each chunk are held for rows from `first` on."""

    @staticmethod
    def forward(
        ctx: Any,
        qkv: Tensor,
        initial_state: Tensor | None,
        slopes: tuple[float, ...],
        layout: ChunkLayout,
        return_state: bool,
    ) -> tuple[Tensor, Tensor | None]:
        T, H, _, D = qkv.shape
        dtype = torch.float64 if qkv.dtype == torch.float64 else torch.float32
        tables = decay_tables(slopes, layout.block, dtype, qkv.device)
        blocks = qkv.reshape(-1, D).index_select(0, layout.gather).to(dtype)
        blocks = blocks.view(3, layout.num_rows, H, layout.block, D)
        states, first = _scan(blocks, initial_state, layout, tables)
        ctx.save_for_backward(blocks, states)
        ctx.first, ctx.slopes, ctx.layout, ctx.dtype = first, slopes, layout, qkv.dtype
        ctx.initial_dtype = None if initial_state is None else initial_state.dtype
        ctx.set_materialize_grads(False)
        final = final_state(blocks, states, initial_state, layout, tables) if return_state else None
        output = _attend(blocks, states, first, tables).view(-1, D)
        places = layout.scatter.view(T * H, 3)[:, 0]
        return output.index_select(0, places).view(T, H, D).to(qkv.dtype), final

    @staticmethod
    def backward(
        ctx: Any, grad_output: Tensor | None, grad_final: Tensor | None
    ) -> tuple[Tensor, Tensor | None, None, None, None]:
        refuse_second_derivative()
        blocks, states = ctx.saved_tensors
        layout: ChunkLayout = ctx.layout
        _, R, H, C, D = blocks.shape
        T = layout.scatter.numel() // (3 * H)
        tables = decay_tables(ctx.slopes, C, blocks.dtype, blocks.device)
        if grad_output is None:
            grad = torch.zeros_like(blocks[0])
        else:
            tokens = layout.gather[: R * H * C] // 3
            grad = grad_output.reshape(T * H, D).index_select(0, tokens).to(blocks.dtype)
            grad = grad.view(R, H, C, D)
            if layout.valid is not None:
                grad.mul_(layout.valid)
        grad_blocks = _attend_backward(blocks, states, grad, ctx.first, tables)
        needs_initial = ctx.initial_dtype is not None
        grad_initial = _scan_backward(
            blocks, states, grad, grad_final, grad_blocks, layout, tables, needs_initial
        )
        if grad_initial is not None:
            grad_initial = grad_initial.to(ctx.initial_dtype)
        grad_qkv = grad_blocks.view(-1, D).index_select(0, layout.scatter).view(T, H, 3, D)
        return grad_qkv.to(ctx.dtype), grad_initial, None, None, None


def _slabs(blocks: Tensor) -> range:
    """Starts of runs of rows whose scores fit `_SLAB_BYTES`; the run's length is the step."""
    _, R, H, C, _ = blocks.shape
    return range(0, R, max(1, _SLAB_BYTES // (H * C * C * blocks.element_size())))


def _scan(
    blocks: Tensor, initial_state: Tensor | None, layout: ChunkLayout, tables: DecayTables
) -> tuple[Tensor, int]:
    """Compute the state before each chunk, [R - first, H, D, D], and `first`."""
    _, R, H, _, D = blocks.shape
    counts = layout.counts
    first = 0 if initial_state is not None or not counts else counts[0]
    states = blocks.new_empty(R - first, H, D, D)
    if initial_state is not None and counts:
        states[: counts[0]] = initial_state.index_select(0, layout.order)
    row = 0
    for here, following in pairwise(counts):
        key = blocks[1, row : row + following] * tables.key
        after = states[row + here - first : row + here - first + following]
        product = flat(after)
        torch.bmm(flat(key).transpose(1, 2), flat(blocks[2, row : row + following]), out=product)
        if row >= first:
            before = states[row - first : row - first + following]
            after.add_(before).addcmul_(before, tables.loss)
        row += here
    return states, first


def _attend(blocks: Tensor, states: Tensor, first: int, tables: DecayTables) -> Tensor:
    """Compute the output of each chunk from its tokens and the state before it."""
    q, k, v = blocks
    R, H, _, D = q.shape
    output = torch.empty_like(v)
    slabs = _slabs(blocks)
    for start in slabs:
        stop = min(start + slabs.step, R)
        scores = torch.bmm(flat(q[start:stop]), flat(k[start:stop]).transpose(1, 2))
        scores.view(stop - start, H, *tables.mask.shape[1:]).mul_(tables.mask)
        torch.bmm(scores, flat(v[start:stop]), out=flat(output[start:stop]))
        begin = max(start, first)
        if begin < stop:
            query = q[begin:stop] * tables.query
            before = states[begin - first : stop - first].view(-1, D, D)
            flat(output[begin:stop]).baddbmm_(flat(query), before)
    return output


def _attend_backward(
    blocks: Tensor, states: Tensor, grad: Tensor, first: int, tables: DecayTables
) -> Tensor:
    """Carry the output's gradient to q, k and v, but for what k and v owe to later chunks."""
    q, k, v = blocks
    R, H, C, D = q.shape
    grad_blocks = torch.empty_like(blocks)
    slabs = _slabs(blocks)
    for start in slabs:
        stop = min(start + slabs.step, R)
        grad_q, grad_k, grad_v = (flat(part[start:stop]) for part in grad_blocks)
        here = flat(grad[start:stop])
        query, key = flat(q[start:stop]), flat(k[start:stop])
        scores = torch.bmm(query, key.transpose(1, 2))
        scores.view(-1, H, C, C).mul_(tables.mask)
        torch.bmm(scores.transpose(1, 2), here, out=grad_v)
        torch.bmm(here, flat(v[start:stop]).transpose(1, 2), out=scores)
        scores.view(-1, H, C, C).mul_(tables.mask)
        torch.bmm(scores.transpose(1, 2), query, out=grad_k)
        torch.bmm(scores, key, out=grad_q)
        begin = max(start, first)
        if begin < stop:
            before = states[begin - first : stop - first].view(-1, D, D)
            owed = torch.bmm(flat(grad[begin:stop]), before.transpose(1, 2))
            grad_blocks[0, begin:stop].addcmul_(owed.view(-1, H, C, D), tables.query)
    return grad_blocks


def _scan_backward(
    blocks: Tensor,
    states: Tensor,
    grad: Tensor,
    grad_final: Tensor | None,
    grad_blocks: Tensor,
    layout: ChunkLayout,
    tables: DecayTables,
    needs_initial: bool,
) -> Tensor | None:
    """Carry the states' gradient back from chunk to chunk, adding what k and v owe to later chunks.

    Returns:
        The gradient of the initial state, [S, H, D, D], or None where there is none.
    """
    q = blocks[0]
    _, H, _, D = q.shape
    counts = layout.counts
    initial = blocks.new_zeros(layout.num_sequences, H, D, D) if needs_initial else None
    if grad_final is not None and initial is not None:
        initial.copy_(grad_final)  # of empty sequences; the others are written below
    ended = None
    if grad_final is not None and counts:
        ended = final_state_backward(blocks, states, grad_final, grad_blocks, layout, tables)
    later: Tensor | None = None
    row = sum(counts)
    for index in reversed(range(len(counts))):
        here = counts[index]
        row -= here
        rows = slice(row, row + here)
        if later is not None:
            _keys_and_values_backward(blocks, grad_blocks, later, row, tables)
        if index == 0 and initial is None:
            return None
        query = flat(q[rows] * tables.query)
        before = torch.bmm(query.transpose(1, 2), flat(grad[rows])).view(here, H, D, D)
        if later is not None:
            before[: len(later)].add_(later).addcmul_(later, tables.loss)
        if ended is not None:
            following = counts[index + 1] if index + 1 < len(counts) else 0
            before[following:].add_(ended[following:here])
        later = before
    if initial is not None and later is not None:
        initial.index_copy_(0, layout.order, later)
    return initial


def _keys_and_values_backward(
    blocks: Tensor, grad_blocks: Tensor, later: Tensor, row: int, tables: DecayTables
) -> None:
    """Add to the rows from `row` on what k and v owe to the gradient of the state after them."""
    _, _, H, C, D = blocks.shape
    rows = slice(row, row + len(later))
    owed_key = torch.bmm(flat(blocks[2, rows]), flat(later).transpose(1, 2)).view(-1, H, C, D)
    grad_blocks[1, rows].addcmul_(owed_key, tables.key)
    owed_value = torch.bmm(flat(blocks[1, rows]), flat(later)).view(-1, H, C, D)
    grad_blocks[2, rows].addcmul_(owed_value, tables.key)
