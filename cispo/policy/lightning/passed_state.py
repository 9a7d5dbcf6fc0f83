"""States of lightning attention that pass from piece to piece of a shared row.

Each rank sums up the sequence that leaves its piece, S_r = sum_j lambda^(m-1-j) k_j v_j^T over its
m last tokens, and all ranks get all sums: H D^2 numbers each, however long the piece is. The state
before piece r is then the sum of lambda^(tokens between q and r) S_q over the pieces q to its left,
with which the attention's own kernels go on. The gradient is the mirror image: gradients of the
states before the pieces to the right, weighted by the same powers.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from cispo.policy.lightning.second_derivative import refuse_second_derivative
from cispo.policy.lightning.shared_row import SharedRow

_SLAB = 1024
"""Tokens of which weighted keys exist at once."""


def with_passed_state(
    qkv: Tensor, slopes: tuple[float, ...], row: SharedRow
) -> tuple[Tensor, Tensor]:
    """Get the state from the left, and give one to the right.

    Args:
        qkv: [n, H, 3, D] of this rank's piece.
        slopes: s of each of the H heads.
        row: What is shared.

    Returns:
        The same `qkv`, to be used from here on, so that every rank takes part in the backward pass
        even where nothing reads the state; and the states [S, H, D, D] before the S sequences of
        the piece, float32 or float64, zero but for the first one.
    """
    qkv, state = _PassedState.apply(qkv, slopes, row)  # type: ignore[no-untyped-call]
    num_begun = len(row.boundaries) - 2
    states = state.unsqueeze(0)
    if num_begun:
        states = torch.cat((states, states.new_zeros(num_begun, *state.shape)))
    return qkv, states


class _PassedState(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, slopes: tuple[float, ...], row: SharedRow
    ) -> tuple[Tensor, Tensor]:
        ctx.slopes, ctx.row = slopes, row
        ctx.save_for_backward(qkv)
        states = row.ranks.gather(_leaving_state(qkv, slopes, row.num_leaving))
        decays = _decays(slopes, row, states)[row.ranks.rank]
        return qkv.view_as(qkv), torch.einsum("rh,rhkv->hkv", decays, states)

    @staticmethod
    def backward(ctx: Any, grad_qkv: Tensor, grad_state: Tensor) -> tuple[Tensor, None, None]:
        refuse_second_derivative()
        (qkv,) = ctx.saved_tensors
        grads = ctx.row.ranks.gather(grad_state)
        decays = _decays(ctx.slopes, ctx.row, grads)[:, ctx.row.ranks.rank]
        owed = torch.einsum("rh,rhkv->hkv", decays, grads)
        grad = grad_qkv.clone()
        _add_leaving_gradient(grad, owed, qkv, ctx.slopes, ctx.row.num_leaving)
        return grad, None, None


def _decays(slopes: tuple[float, ...], row: SharedRow, like: Tensor) -> Tensor:
    """lambda^distance, [receiving R, sending R, H]; 0 where nothing is passed."""
    distances = torch.tensor(row.distances(), dtype=torch.float64).unsqueeze(-1)
    return torch.exp(-torch.tensor(slopes, dtype=torch.float64) * distances).to(like)


def _leaving_state(qkv: Tensor, slopes: tuple[float, ...], count: int) -> Tensor:
    """The state [H, D, D] that the last `count` tokens leave behind."""
    n, H, _, D = qkv.shape
    dtype = torch.promote_types(qkv.dtype, torch.float32)
    state = qkv.new_zeros(H, D, D, dtype=dtype)
    for tokens in _slabs(n - count, n):
        before, within = _slab_decays(slopes, tokens, dtype, qkv.device)
        key, value = (qkv[tokens, :, part].to(dtype) for part in (1, 2))
        key = (key * within).permute(1, 2, 0)
        state = torch.baddbmm(state * before, key, value.transpose(0, 1))
    return state


def _add_leaving_gradient(
    grad: Tensor, grad_state: Tensor, qkv: Tensor, slopes: tuple[float, ...], count: int
) -> None:
    """Add to the gradient of `qkv` what its last `count` keys and values owe to their state's."""
    n = len(qkv)
    for tokens in reversed(list(_slabs(n - count, n))):
        before, within = _slab_decays(slopes, tokens, grad_state.dtype, qkv.device)
        key, value = (qkv[tokens, :, part].to(grad_state.dtype) for part in (1, 2))
        grad_key = torch.bmm(value.transpose(0, 1), grad_state.transpose(1, 2)).transpose(0, 1)
        grad_value = torch.bmm(key.transpose(0, 1), grad_state).transpose(0, 1)
        grad[tokens, :, 1] += grad_key * within
        grad[tokens, :, 2] += grad_value * within
        grad_state = grad_state * before


def _slabs(first: int, last: int) -> Iterator[slice]:
    for start in range(first, last, _SLAB):
        yield slice(start, min(start + _SLAB, last))


def _slab_decays(
    slopes: tuple[float, ...], tokens: slice, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """For a slab of c tokens: lambda^c [H, 1, 1] and lambda^(c-1-j) [c, H, 1]."""
    powers = _powers(slopes, dtype, device)[_SLAB - (tokens.stop - tokens.start) :]
    return powers[0].unsqueeze(-1), powers[1:]


@lru_cache(maxsize=256)
def _powers(slopes: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """lambda^(_SLAB - i) for i = 0.._SLAB, [_SLAB + 1, H, 1]."""
    exponents = torch.arange(_SLAB, -1, -1, dtype=torch.float64).view(-1, 1)
    powers = torch.exp(-torch.tensor(slopes, dtype=torch.float64) * exponents)
    return powers.unsqueeze(-1).to(dtype=dtype, device=device)
