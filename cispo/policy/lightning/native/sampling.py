"""Draws tokens from logits with compiled code; see sampling.cpp."""

import ctypes
from typing import NamedTuple

import torch
from torch import Tensor

from cispo.policy.lightning.native.build import require_native


class NativeDrawn(NamedTuple):
    """One token a row, of all that the vocabulary holds.

    Attributes:
        token_ids: [N] int64.
        logprobs: [N] float64, in nats.
        totals: [N] float64 sums of e^(logit / temperature - highest).
        bad_row: The first row whose logits are no distribution, or -1.
        truncates: Whether a row's settings keep only likely tokens, which is not done here.
    """

    token_ids: Tensor
    logprobs: Tensor
    totals: Tensor
    bad_row: int
    truncates: bool


def native_draw(
    logits: Tensor,
    noise: Tensor,
    temperature: Tensor,
    top_p: Tensor,
    top_k: Tensor,
    min_p: Tensor,
) -> NativeDrawn:
    """Invert each row's cumulative distribution; a row is computed by itself.

    Args:
        logits: [N, V] float32 on CPU.
        noise: [N] float64 in [0, 1).
        temperature: [N] float32, > 0.
        top_p: [N] float64.
        top_k: [N] int64.
        min_p: [N] float32.

    Raises:
        ConfigError: The kernels cannot be built here.
        ValueError: A tensor has another dtype, length or layout.
    """
    N, V = logits.shape
    token_ids = torch.empty(N, dtype=torch.int64)
    logprobs, totals = torch.empty(2, N, dtype=torch.float64)
    truncates = ctypes.c_int64()
    columns = (noise, temperature, top_p, top_k, min_p)
    wanted = (torch.float64, torch.float32, torch.float64, torch.int64, torch.float32)
    bad_row = require_native().cispo_draw(
        _address(logits, torch.float32, N * V), ctypes.c_int64(N), ctypes.c_int64(V),
        *(_address(column, dtype, N) for column, dtype in zip(columns, wanted, strict=True)),
        ctypes.c_int64(torch.get_num_threads()), ctypes.c_void_p(token_ids.data_ptr()),
        ctypes.c_void_p(logprobs.data_ptr()), ctypes.c_void_p(totals.data_ptr()),
        ctypes.byref(truncates),
    )  # fmt: skip
    return NativeDrawn(token_ids, logprobs, totals, bad_row, bool(truncates.value))


def native_uniforms(seeds: Tensor, positions: Tensor) -> Tensor:
    """Return SplitMix64's number in [0, 1) of each seed at a position; all [N], int64 to float64.

    Raises:
        ConfigError: The kernels cannot be built here.
        ValueError: A tensor has another dtype, length or layout.
    """
    N = len(seeds)
    noise = torch.empty(N, dtype=torch.float64)
    require_native().cispo_uniforms(
        _address(seeds, torch.int64, N), _address(positions, torch.int64, N), ctypes.c_int64(N),
        ctypes.c_void_p(noise.data_ptr()),
    )  # fmt: skip
    return noise


def _address(tensor: Tensor, dtype: torch.dtype, count: int) -> ctypes.c_void_p:
    """Where a tensor lies that the compiled code can read."""
    if tensor.dtype != dtype or tensor.numel() != count or not tensor.is_contiguous():
        raise ValueError(
            f"native sampling needs {count} contiguous {dtype}, not {tensor.dtype} "
            f"{list(tensor.shape)} with strides {tensor.stride()}"
        )
    if tensor.device.type != "cpu":
        raise ValueError(f"native sampling runs on cpu, not {tensor.device}")
    return ctypes.c_void_p(tensor.data_ptr())
