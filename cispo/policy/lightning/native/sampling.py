"""Draws tokens from logits with compiled code; see sampling.cpp."""

import ctypes
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from cispo.policy.lightning.native.addresses import address
from cispo.policy.lightning.native.build import require_native

_DTYPES = (torch.float64, torch.float32, torch.float64, torch.int64, torch.float32)
"""Of the noise and of the four settings."""


class NativeDrawn(NamedTuple):
    """One token a row.

    Attributes:
        token_ids: [N] int64.
        logprobs: [N] float32 in nats, after temperature and truncation.
        full_logprobs: [N] float32 in nats, after temperature and before truncation.
        bad_row: The first row whose logits are no distribution, or -1.
    """

    token_ids: Tensor
    logprobs: Tensor
    full_logprobs: Tensor
    bad_row: int


def native_draw(
    logits: Tensor,
    noise: Tensor,
    temperature: Tensor,
    top_p: Tensor,
    top_k: Tensor,
    min_p: Tensor,
) -> NativeDrawn:
    """Invert each row's cumulative distribution of what it keeps; a row is computed by itself.

    Args:
        logits: [N, V] float32 on CPU.
        noise: [N] float64 in [0, 1).
        temperature: [N] float32, > 0.
        top_p: [N] float64 in (0, 1].
        top_k: [N] int64; 0 keeps all.
        min_p: [N] float32 in [0, 1).

    Raises:
        ConfigError: The kernels cannot be built here.
        ValueError: A tensor has another dtype, length or layout.
    """
    N, V = logits.shape
    token_ids = torch.empty(N, dtype=torch.int64)
    logprobs, full_logprobs = torch.empty(N), torch.empty(N)
    columns = (noise, temperature, top_p, top_k, min_p)
    bad_row = _kernels().cispo_draw(
        address(logits, torch.float32, N * V), N, V,
        *[address(column, dtype, N) for column, dtype in zip(columns, _DTYPES, strict=True)],
        torch.get_num_threads(), token_ids.data_ptr(), logprobs.data_ptr(),
        full_logprobs.data_ptr(),
    )  # fmt: skip
    return NativeDrawn(token_ids, logprobs, full_logprobs, bad_row)


def native_uniforms(seeds: Tensor, positions: Tensor) -> Tensor:
    """Return SplitMix64's number in [0, 1) of each seed at a position; all [N], int64 to float64.

    Raises:
        ConfigError: The kernels cannot be built here.
        ValueError: A tensor has another dtype, length or layout.
    """
    N = len(seeds)
    noise = torch.empty(N, dtype=torch.float64)
    _kernels().cispo_uniforms(
        address(seeds, torch.int64, N), address(positions, torch.int64, N), N, noise.data_ptr()
    )
    return noise


@lru_cache(maxsize=1)
def _kernels() -> ctypes.CDLL:
    """The kernels, told what their functions take, so that numbers need not be wrapped."""
    library, pointer, count = require_native(), ctypes.c_void_p, ctypes.c_int64
    library.cispo_draw.argtypes = (pointer, count, count, *[pointer] * 5, count, *[pointer] * 3)
    library.cispo_draw.restype = count
    library.cispo_uniforms.argtypes = (pointer, pointer, count, pointer)
    return library
