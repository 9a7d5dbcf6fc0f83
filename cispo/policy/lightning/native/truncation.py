"""Draws tokens from truncated distributions with compiled code; see truncation.cpp."""

import ctypes

import torch
from torch import Tensor

from cispo.policy.lightning.native.build import require_native


def native_draw_truncated(
    mass: Tensor,
    total: Tensor,
    noise: Tensor,
    *,
    top_p: Tensor,
    top_k: Tensor,
    min_p: Tensor,
) -> tuple[Tensor, Tensor]:
    """Draw one token a row from what top-k, top-p and min-p keep; a row is computed alone.

    Args:
        mass: [N, V] float32 on CPU, at least 0; unnormalised probabilities.
        total: [N] float64, their sums.
        noise: [N] float64 in [0, 1).
        top_p: [N] float64 in (0, 1].
        top_k: [N] int64 in 1 .. V.
        min_p: [N] float32 in [0, 1).

    Returns:
        The tokens [N] int64, and the kept mass [N] float64.

    Raises:
        ConfigError: The kernels cannot be built here.
        ValueError: A column has another length or dtype.
    """
    N, V = mass.shape
    mass = mass.contiguous()
    columns = (total, noise, top_p, top_k, min_p)
    dtypes = (torch.float64, torch.float64, torch.float64, torch.int64, torch.float32)
    for column, dtype in zip((mass, *columns), (torch.float32, *dtypes), strict=True):
        if len(column) != N or column.dtype != dtype or not column.is_contiguous():
            raise ValueError(f"{N} rows need [{N}] {dtype}, not {column.shape} {column.dtype}")
    tokens = torch.empty(N, dtype=torch.int64)
    kept = torch.empty(N, dtype=torch.float64)
    require_native().cispo_draw_truncated(
        _address(mass), ctypes.c_int64(N), ctypes.c_int64(V), *map(_address, columns),
        ctypes.c_int64(torch.get_num_threads()), _address(tokens), _address(kept),
    )  # fmt: skip
    return tokens, kept


def _address(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())
