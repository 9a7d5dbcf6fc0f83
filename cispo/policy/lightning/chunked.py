"""Lightning attention in plain torch, all sequences of a slab chunk by chunk; see attention.py."""

from typing import Any

import torch
from torch import Tensor

from cispo.policy.lightning.chunks import ChunkLayout, ChunkRows, Slab, flat, moved
from cispo.policy.lightning.decay import DecayTables, decay_tables
from cispo.policy.lightning.final_state import final_state, final_state_backward
from cispo.policy.lightning.second_derivative import refuse_second_derivative


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
    length; here the backward pass is one more loop. Slab by slab the temporaries stay small.
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
        output = qkv.new_empty(T, H, D)
        final = qkv.new_empty(layout.num_sequences, H, D, D, dtype=dtype) if return_state else None
        kept, carried = [], None
        for slab in layout.slabs:
            rows = slab.rows
            blocks = _blocks(qkv, slab, dtype)
            entering = _entering(initial_state, carried, slab, blocks)
            states, first = _scan(blocks, entering, rows, tables)
            kept.append(states)
            attended = _attend(blocks, states, first, tables).view(-1, D)
            places = rows.scatter.view(-1, 3)[:, 0]
            _select(attended, places, output[slab.tokens])
            if final is not None or slab.is_cut:
                after = final_state(blocks, states, entering, rows, tables)
                carried = after[-1:]
                if final is not None:
                    final[slab.sequences] = after
        ctx.save_for_backward(qkv, *kept)
        ctx.slopes, ctx.layout, ctx.dtype = slopes, layout, dtype
        ctx.initial_dtype = None if initial_state is None else initial_state.dtype
        ctx.set_materialize_grads(False)
        return output, final

    @staticmethod
    def backward(
        ctx: Any, grad_output: Tensor | None, grad_final: Tensor | None
    ) -> tuple[Tensor, Tensor | None, None, None, None]:
        refuse_second_derivative()
        qkv, *kept = ctx.saved_tensors
        layout: ChunkLayout = ctx.layout
        _, H, _, D = qkv.shape
        tables = decay_tables(ctx.slopes, layout.block, ctx.dtype, qkv.device)
        grad_qkv = torch.empty_like(qkv, memory_format=torch.contiguous_format)
        grad_initial = carried = None
        if ctx.initial_dtype is not None:
            shape = (layout.num_sequences, H, D, D)
            grad_initial = qkv.new_empty(shape, dtype=ctx.initial_dtype)
        for slab, states in zip(reversed(layout.slabs), reversed(kept), strict=True):
            blocks = _blocks(qkv, slab, ctx.dtype)
            grad = _grad_blocks(grad_output, slab, blocks)
            leaving = _leaving(grad_final, carried, slab, blocks)
            first = blocks.shape[1] - len(states)
            grad_blocks = _attend_backward(blocks, states, grad, first, tables)
            needs_entering = grad_initial is not None or slab.is_continued
            entering = _scan_backward(
                blocks, states, grad, leaving, grad_blocks, slab.rows, tables, needs_entering
            )
            _select(grad_blocks.view(-1, D), slab.rows.scatter, grad_qkv[slab.tokens])
            if grad_initial is not None and entering is not None:
                # where the first sequence is continued, the slab before writes its place again
                grad_initial[slab.sequences] = entering.to(grad_initial.dtype)
            carried = entering
        return grad_qkv, grad_initial, None, None, None


def _select(heads: Tensor, places: Tensor, out: Tensor) -> None:
    """Write the heads [N, D] in some places into `out` [..., D], whose dtype may differ."""
    out = out.view(-1, heads.shape[1])
    if out.dtype == heads.dtype:
        torch.index_select(heads, 0, places, out=out)
    else:
        out.copy_(heads.index_select(0, places))


def _blocks(qkv: Tensor, slab: Slab, dtype: torch.dtype) -> Tensor:
    """Queries, keys and values of a slab's chunks; padding repeats the last token."""
    _, H, _, D = qkv.shape
    heads = qkv[slab.tokens].reshape(-1, D)
    blocks = heads.index_select(0, slab.rows.gather).to(dtype)
    return blocks.view(3, slab.rows.num_rows, H, slab.rows.block, D)


def _grad_blocks(grad_output: Tensor | None, slab: Slab, blocks: Tensor) -> Tensor:
    """The output's gradient in the slab's chunks, [R, H, C, D]; zero on padding."""
    if grad_output is None:
        return torch.zeros_like(blocks[0])
    places = slab.rows.gather[: blocks[0].numel() // blocks.shape[-1]] // 3
    heads = grad_output[slab.tokens].reshape(-1, blocks.shape[-1])
    grad = heads.index_select(0, places).to(blocks.dtype).view(blocks.shape[1:])
    if slab.rows.valid is not None:
        grad.mul_(slab.rows.valid)
    return grad


def _entering(
    initial_state: Tensor | None, carried: Tensor | None, slab: Slab, blocks: Tensor
) -> Tensor | None:
    """States before the slab's sequences; None is zero. The last one carried goes on."""
    if not slab.is_continued:
        return None if initial_state is None else initial_state[slab.sequences].to(blocks.dtype)
    assert carried is not None
    return _with_row(initial_state, carried[-1], 0, slab, blocks)


def _leaving(
    grad_final: Tensor | None, carried: Tensor | None, slab: Slab, blocks: Tensor
) -> Tensor | None:
    """Gradients of the states after the slab's sequences; None is zero."""
    if not slab.is_cut:
        return None if grad_final is None else grad_final[slab.sequences]
    assert carried is not None
    return _with_row(grad_final, carried[0], -1, slab, blocks)


def _with_row(
    states: Tensor | None, state: Tensor, place: int, slab: Slab, blocks: Tensor
) -> Tensor:
    """Copy the states of the slab's sequences, zero where None, with another one in one place."""
    H, D = blocks.shape[2], blocks.shape[4]
    copy = blocks.new_zeros(slab.sequences.stop - slab.sequences.start, H, D, D)
    if states is not None:
        copy.copy_(states[slab.sequences])
    copy[place] = state
    return copy


def _scan(
    blocks: Tensor, initial_state: Tensor | None, layout: ChunkRows, tables: DecayTables
) -> tuple[Tensor, int]:
    """Compute the state before each chunk, [R - first, H, D, D], and `first`."""
    _, R, H, _, D = blocks.shape
    counts = layout.counts
    first = 0 if initial_state is not None or not counts else counts[0]
    states = blocks.new_empty(R - first, H, D, D)
    if initial_state is not None and counts:
        states[: counts[0]] = initial_state.index_select(0, layout.order)
    for rows, followers in layout.runs:
        key = flat(blocks[1, rows] * tables.key)
        product = flat(states[moved(followers, first)])
        torch.bmm(key.transpose(1, 2), flat(blocks[2, rows]), out=product)
    for rows, followers in layout.steps:
        if rows.start >= first:
            before = states[moved(rows, first)]
            states[moved(followers, first)].add_(before).addcmul_(before, tables.loss)
    return states, first


def _attend(blocks: Tensor, states: Tensor, first: int, tables: DecayTables) -> Tensor:
    """Compute the output of each chunk from its tokens and the state before it."""
    q, k, v = blocks
    _, H, C, D = q.shape
    output = torch.empty_like(v)
    scores = torch.bmm(flat(q), flat(k).transpose(1, 2))
    scores.view(-1, H, C, C).mul_(tables.mask)
    torch.bmm(scores, flat(v), out=flat(output))
    query = q[first:] * tables.query
    flat(output[first:]).baddbmm_(flat(query), states.view(-1, D, D))
    return output


def _attend_backward(
    blocks: Tensor, states: Tensor, grad: Tensor, first: int, tables: DecayTables
) -> Tensor:
    """Carry the output's gradient to q, k and v, but for what k and v owe to later chunks."""
    _, _, H, C, D = blocks.shape
    query, key, value = (flat(part) for part in blocks)
    grad_blocks = torch.empty_like(blocks)
    grad_query, grad_key, grad_value = (flat(part) for part in grad_blocks)
    here = flat(grad)
    scores = torch.bmm(query, key.transpose(1, 2))
    scores.view(-1, H, C, C).mul_(tables.mask)
    torch.bmm(scores.transpose(1, 2), here, out=grad_value)
    torch.bmm(here, value.transpose(1, 2), out=scores)
    scores.view(-1, H, C, C).mul_(tables.mask)
    torch.bmm(scores.transpose(1, 2), query, out=grad_key)
    torch.bmm(scores, key, out=grad_query)
    owed = torch.bmm(flat(grad[first:]), states.view(-1, D, D).transpose(1, 2))
    grad_blocks[0, first:].addcmul_(owed.view(-1, H, C, D), tables.query)
    return grad_blocks


def _scan_backward(
    blocks: Tensor,
    states: Tensor,
    grad: Tensor,
    grad_final: Tensor | None,
    grad_blocks: Tensor,
    layout: ChunkRows,
    tables: DecayTables,
    needs_initial: bool,
) -> Tensor | None:
    """Carry the states' gradient back from chunk to chunk, adding what k and v owe to later chunks.

    Returns:
        The gradient of the initial state, [S, H, D, D], or None where there is none.
    """
    _, _, H, _, D = blocks.shape
    counts = layout.counts
    initial = blocks.new_zeros(layout.num_sequences, H, D, D) if needs_initial else None
    if grad_final is not None and initial is not None:
        initial.copy_(grad_final)  # of empty sequences; the others are written below
    if not counts:
        return initial
    first = 0 if needs_initial else counts[0]
    query = flat(blocks[0, first:] * tables.query)
    owed = torch.bmm(query.transpose(1, 2), flat(grad[first:])).view(-1, H, D, D)
    if grad_final is not None:
        ended = final_state_backward(blocks, states, grad_final, grad_blocks, layout, tables)
        is_owed = layout.last_rows >= first
        owed.index_add_(0, layout.last_rows[is_owed] - first, ended[is_owed])
    for rows, followers in reversed(layout.steps):
        if rows.start >= first:
            later = owed[moved(followers, first)]
            owed[moved(rows, first)].add_(later).addcmul_(later, tables.loss)
    for rows, followers in layout.runs:
        later = owed[moved(followers, first)]
        _keys_and_values_backward(blocks, grad_blocks, later, rows, tables)
    return None if initial is None else initial.index_copy_(0, layout.order, owed[: counts[0]])


def _keys_and_values_backward(
    blocks: Tensor, grad_blocks: Tensor, later: Tensor, rows: slice, tables: DecayTables
) -> None:
    """Add to some rows what their k and v owe to the gradient of the states after them."""
    _, _, H, C, D = blocks.shape
    owed_key = torch.bmm(flat(blocks[2, rows]), flat(later).transpose(1, 2)).view(-1, H, C, D)
    grad_blocks[1, rows].addcmul_(owed_key, tables.key)
    owed_value = torch.bmm(flat(blocks[1, rows]), flat(later)).view(-1, H, C, D)
    grad_blocks[2, rows].addcmul_(owed_value, tables.key)
