"""Notes drawn tokens, and finds the rows that end with them, by compiled code; see notes.cpp."""

import ctypes
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from cispo.policy.lightning.native.addresses import address
from cispo.policy.lightning.native.build import require_native

_MATRICES = (torch.int32, torch.float32, torch.float32)


def native_note(
    token_ids: Tensor,
    logprobs: Tensor,
    full_logprobs: Tensor,
    certain: Tensor,
    *,
    log_threshold: float,
    counts: Tensor,
    streaks: Tensor,
    last_tokens: Tensor,
    matrices: Sequence[Tensor],
) -> None:
    """Write one token a row into the rows' records, and count it.

    Args:
        token_ids: [N] int64.
        logprobs: [N] float32.
        full_logprobs: [N] float32.
        certain: [N] float32, what a streak goes by.
        log_threshold: A streak grows by tokens above it, and breaks at others.
        counts: [N] int64, tokens before these; updated in place, as the next two are.
        streaks: [N] int64.
        last_tokens: [N] int64.
        matrices: [R, C] int32, float32 and float32, for tokens and both log-probabilities.

    Raises:
        ConfigError: The kernels cannot be built here.
        ValueError: A tensor has another dtype, length or layout, or a row has no room.
    """
    N, (R, C) = token_ids.shape[0], matrices[0].shape
    if N > R:
        raise ValueError(f"{N} tokens for {R} rows")
    bad_row = _kernels().cispo_note(
        N, C, address(token_ids, torch.int64, N), address(logprobs, torch.float32, N),
        address(full_logprobs, torch.float32, N), address(certain, torch.float32, N),
        log_threshold, address(counts, torch.int64, N), address(streaks, torch.int64, N),
        address(last_tokens, torch.int64, N),
        *[address(m, dtype, R * C) for m, dtype in zip(matrices, _MATRICES, strict=True)],
    )  # fmt: skip
    if bad_row >= 0:
        raise ValueError(f"row {bad_row} has no place {int(counts[bad_row])} among {C}")


def native_endings(
    token_ids: Tensor,
    counts: Tensor,
    *,
    budgets: Tensor,
    streaks: Tensor,
    is_stop: Tensor,
    repetition_tokens: int,
    codes: Tensor,
) -> int:
    """Complete the codes of why rows end, as `rollout.stopping` has them; returns how many do.

    Args:
        token_ids: [N] int64, the newest.
        counts: [N] int64, with these.
        budgets: [N] int64.
        streaks: [N] int64.
        is_stop: [V] bool.
        repetition_tokens: Streak that ends a row; 0 never does.
        codes: [N] int64, which know of stop texts alone; updated in place.

    Raises:
        ConfigError: The kernels cannot be built here.
        ValueError: A tensor has another dtype, length or layout, or a token is not among V.
    """
    N, V = token_ids.shape[0], is_stop.shape[0]
    ended = int(
        _kernels().cispo_endings(
            N, V, *[address(c, torch.int64, N) for c in (token_ids, counts, budgets, streaks)],
            address(is_stop, torch.bool, V), repetition_tokens, address(codes, torch.int64, N),
        )
    )  # fmt: skip
    if ended < 0:
        raise ValueError(f"token {int(token_ids[-1 - ended])} of row {-1 - ended} is not among {V}")
    return ended


@lru_cache(maxsize=1)
def _kernels() -> ctypes.CDLL:
    """The kernels, told what their functions take, so that numbers need not be wrapped."""
    library, pointer, count = require_native(), ctypes.c_void_p, ctypes.c_int64
    library.cispo_note.argtypes = (
        count, count, *[pointer] * 4, ctypes.c_float, *[pointer] * 6,
    )  # fmt: skip
    library.cispo_note.restype = count
    library.cispo_endings.argtypes = (count, count, *[pointer] * 5, count, pointer)
    library.cispo_endings.restype = count
    return library
