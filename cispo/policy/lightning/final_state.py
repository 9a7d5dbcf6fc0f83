"""The state after each sequence, whose last chunk may be short, and its gradient."""

import torch
from torch import Tensor

from cispo.policy.lightning.chunks import ChunkRows, flat
from cispo.policy.lightning.decay import DecayTables


def _last_chunk_decay(layout: ChunkRows, tables: DecayTables) -> tuple[Tensor, Tensor]:
    """For last chunks of m tokens: lambda^(m-1-j) [A, H, C, 1], 0 on padding; lambda^m - 1."""
    shift = torch.arange(layout.block, device=layout.order.device) - layout.last_lengths.view(-1, 1)
    key = tables.key[:, shift, 0].transpose(0, 1)
    key = torch.where((shift < 0).unsqueeze(1), key, 0.0)
    loss = tables.losses[:, layout.last_lengths - 1].transpose(0, 1)
    return key.unsqueeze(-1), loss.unsqueeze(-1)


def final_state(
    blocks: Tensor,
    states: Tensor,
    initial_state: Tensor | None,
    layout: ChunkRows,
    tables: DecayTables,
) -> Tensor:
    """Compute the state after each sequence, [S, H, D, D]; an empty one keeps its initial state."""
    _, R, H, _, D = blocks.shape
    final = blocks.new_zeros(layout.num_sequences, H, D, D)
    if initial_state is not None:
        final.copy_(initial_state)
    if R == 0:
        return final
    key_decay, loss = _last_chunk_decay(layout, tables)
    rows = layout.last_rows
    key = blocks[1].index_select(0, rows) * key_decay
    value = blocks[2].index_select(0, rows)
    state = torch.bmm(flat(key).transpose(1, 2), flat(value)).view(-1, H, D, D)
    first = R - len(states)
    has_state = rows >= first
    # the operations of the scan, so that a whole last chunk leaves the bits of a chunk inside
    before = states[rows[has_state] - first]
    state[has_state] = (state[has_state] + before).addcmul_(before, loss[has_state])
    return final.index_copy_(0, layout.order, state)


def final_state_backward(
    blocks: Tensor,
    states: Tensor,
    grad_final: Tensor,
    grad_blocks: Tensor,
    layout: ChunkRows,
    tables: DecayTables,
) -> Tensor:
    """Add what last chunks' k and v owe to the final state; return what the state before owes."""
    _, _, H, C, D = blocks.shape
    key_decay, loss = _last_chunk_decay(layout, tables)
    rows = layout.last_rows
    grad = grad_final.index_select(0, layout.order).to(blocks.dtype)
    key, value = blocks[1].index_select(0, rows), blocks[2].index_select(0, rows)
    owed_key = torch.bmm(flat(value), flat(grad).transpose(1, 2)).view(-1, H, C, D)
    grad_blocks[1].index_add_(0, rows, owed_key * key_decay)
    owed_value = torch.bmm(flat(key), flat(grad)).view(-1, H, C, D)
    grad_blocks[2].index_add_(0, rows, owed_value * key_decay)
    return torch.addcmul(grad, grad, loss)
