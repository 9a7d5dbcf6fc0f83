"""Lightning attention over packed sequences: one function in front of three implementations.

For a head with decay lambda = exp(-s), in a chunk with positions i, j = 0..C-1 (the recurrence
S_t = lambda S_{t-1} + k_t v_t^T, o_t = S_t^T q_t of MiniMax-M1's code, in relative powers):

    o_i   = lambda^(i+1) S^T q_i + sum_{j<=i} lambda^(i-j) (q_i . k_j) v_j
    S_out = lambda^C S + sum_j lambda^(C-1-j) k_j v_j^T

Only non-negative powers occur, so nothing overflows.
"""

import torch
from torch import Tensor

from cispo.policy.lightning.chunked import chunked_attention
from cispo.policy.lightning.chunks import ChunkLayout
from cispo.policy.lightning.fla import fla_attention
from cispo.policy.lightning.kernels import resolve_kernels
from cispo.policy.lightning.native.attention import native_attention


def lightning_attention(
    qkv: Tensor,
    slopes: tuple[float, ...],
    layout: ChunkLayout,
    *,
    initial_state: Tensor | None = None,
    return_state: bool = False,
    kernels: str = "auto",
) -> tuple[Tensor, Tensor | None]:
    """Attend within each packed sequence.

    Args:
        qkv: [T, H, 3, D] queries, keys and values after their activation; computed in float32
            (float64 stays float64, in torch).
        slopes: s of each of the H heads, > 0.
        layout: Chunks of the packed row.
        initial_state: [S, H, D, D] state before each sequence, keys by values; None is zero.
        return_state: Whether to compute the state after each sequence.
        kernels: One of `KERNELS`; see `resolve_kernels`.

    Returns:
        The output [T, H, D] in the dtype of `qkv`, and the final state [S, H, D, D] or None.

    Raises:
        ConfigError: The kernels cannot run here.
        RuntimeError: In the backward pass, if a gradient of the gradient is asked for.
    """
    chosen = "torch" if qkv.dtype == torch.float64 else resolve_kernels(kernels, qkv.device.type)
    match chosen:
        case "native":
            return native_attention(
                qkv,
                slopes,
                layout.starts,
                block=layout.block,
                initial_state=initial_state,
                return_state=return_state,
            )
        case "fla":
            return fla_attention(
                qkv, slopes, layout.starts, initial_state=initial_state, return_state=return_state
            )
        case _:
            return chunked_attention(
                qkv, slopes, layout, initial_state=initial_state, return_state=return_state
            )
