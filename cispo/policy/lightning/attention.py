"""Lightning attention over packed sequences: one function in front of three implementations.

For a head with decay lambda = exp(-s), in a chunk with positions i, j = 0..C-1 (the recurrence
S_t = lambda S_{t-1} + k_t v_t^T, o_t = S_t^T q_t of MiniMax-M1's code, in relative powers):

    o_i   = lambda^(i+1) S^T q_i + sum_{j<=i} lambda^(i-j) (q_i . k_j) v_j
    S_out = lambda^C S + sum_j lambda^(C-1-j) k_j v_j^T

Only non-negative powers occur, so nothing overflows.
"""

import importlib.util
import logging
from functools import lru_cache

import torch
from torch import Tensor

from cispo.config.policy import KERNELS
from cispo.errors import ConfigError
from cispo.policy.lightning.chunked import chunked_attention
from cispo.policy.lightning.chunks import ChunkLayout
from cispo.policy.lightning.fla import fla_attention
from cispo.policy.lightning.native.attention import native_attention
from cispo.policy.lightning.native.build import native_library, require_native

_log = logging.getLogger(__name__)


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


def resolve_kernels(kernels: str, device: str) -> str:
    """Decide between `torch`, `native` and `fla`.

    Args:
        kernels: `auto` takes native on a CPU where it can be built and fla on CUDA where it is
            installed, else torch; the log says once what is missing.
        device: Type of the device, as `cpu` or `cuda`.

    Raises:
        ConfigError: The kernels do not exist or cannot run on the device.
    """
    match kernels:
        case "auto" if device == "cpu":
            return "torch" if native_library() is None else "native"
        case "auto" if device == "cuda":
            return "fla" if _has_fla() else "torch"
        case "auto" | "torch":
            return "torch"
        case "native":
            if device != "cpu":
                raise ConfigError(f"policy.kernels=native: runs on cpu, not {device}; choose auto")
            require_native()
            return "native"
        case "fla":
            if device != "cuda":
                raise ConfigError(f"policy.kernels=fla: runs on cuda, not {device}; choose auto")
            if not _has_fla():
                raise ConfigError(
                    "policy.kernels=fla: flash-linear-attention is not installed; "
                    "pip install 'cispo-rl[gpu]', or choose torch"
                )
            return "fla"
        case _:
            raise ConfigError(f"policy.kernels={kernels}: choose one of {', '.join(KERNELS)}")


@lru_cache(maxsize=1)
def _has_fla() -> bool:
    has_fla = importlib.util.find_spec("fla") is not None
    if not has_fla:
        _log.warning("flash-linear-attention is not installed: pip install 'cispo-rl[gpu]'")
    return has_fla
