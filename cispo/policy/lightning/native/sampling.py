"""Draws tokens from logits with compiled code; see sampling.cpp."""

import ctypes

import torch
from torch import Tensor

from cispo.policy.lightning.native.build import require_native


def native_draw(
    logits: Tensor, noise: Tensor, temperature: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw one token a row by inverting its cumulative distribution; a row is computed alone.

    Args:
        logits: [N, V] float32 on CPU.
        noise: [N] float64 in [0, 1).
        temperature: [N] float32, > 0.

    Returns:
        Tokens [N] int64, their log-probabilities [N] float64 in nats, and the sums [N] float64 of
        e^(logit / temperature - highest), not finite where the logits are no distribution.

    Raises:
        ConfigError: The kernels cannot be built here.
    """
    N, V = logits.shape
    logits, noise = logits.float().contiguous(), noise.double().contiguous()
    temperature = temperature.float().contiguous()
    if len(noise) != N or len(temperature) != N:
        raise ValueError(f"{N} rows of logits, {len(noise)} of noise, {len(temperature)} settings")
    tokens = torch.empty(N, dtype=torch.int64)
    logprobs, totals = torch.empty(2, N, dtype=torch.float64)
    require_native().cispo_draw(
        _address(logits), ctypes.c_int64(N), ctypes.c_int64(V), _address(noise),
        _address(temperature), ctypes.c_int64(torch.get_num_threads()), _address(tokens),
        _address(logprobs), _address(totals),
    )  # fmt: skip
    return tokens, logprobs, totals


def _address(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())
