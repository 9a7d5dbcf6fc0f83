"""Lightning attention by flash-linear-attention's Triton kernels on CUDA; unverified so far."""

import importlib
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from cispo.policy.lightning.second_derivative import refuse_second_derivative


def fla_attention(
    qkv: Tensor,
    slopes: tuple[float, ...],
    starts: Tensor,
    *,
    initial_state: Tensor | None,
    return_state: bool,
) -> tuple[Tensor, Tensor | None]:
    """Attend as `lightning_attention` does, on CUDA.

    `chunk_simple_gla` with one constant decay a head is MiniMax's recurrence; the library's own
    `lightning_attn` has other decays.
    """
    if len(qkv) == 0:  # no kernel starts without a token; the gradient still takes its way
        return qkv[:, :, 0], initial_state
    attend = importlib.import_module("fla.ops.simple_gla").chunk_simple_gla
    q, k, v = _SecondDerivativeRefused.apply(qkv).unsqueeze(0).unbind(3)  # type: ignore[no-untyped-call]
    output, state = attend(
        q,
        k,
        v,
        g_gamma=_log_decays(slopes, qkv.device),
        scale=1.0,
        initial_state=None if initial_state is None else initial_state.float(),
        output_final_state=return_state,
        cu_seqlens=starts,
    )
    return output.squeeze(0), state


class _SecondDerivativeRefused(torch.autograd.Function):
    """The identity: the library's own backward pass would give a wrong second derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        refuse_second_derivative()
        return grad


@lru_cache(maxsize=256)
def _log_decays(slopes: tuple[float, ...], device: torch.device) -> Tensor:
    return -torch.tensor(slopes, dtype=torch.float32, device=device)
