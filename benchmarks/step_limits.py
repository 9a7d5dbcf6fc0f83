"""How near one decoding step is to what the machine's memory and multipliers allow."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch

from benchmarks.machine_limits import gemm_flops, read_bytes, update_bytes
from cispo.policy.lightning.config import LINEAR, LightningConfig

_FLOAT_BYTES = 4


def step_limits(
    config: LightningConfig, *, rows: int, seconds: float, threads: int
) -> dict[str, float]:
    """Compare a step's time with its bounds.

    Weights are read once, which the products can hide; then states are read and written.

    Args:
        config: Of the model.
        rows: Sequences that advance.
        seconds: Measured time of a step.
        threads: On which it was measured; the bounds are measured on as many.
    """
    inner = config.num_attention_heads * config.head_dim
    kv_inner = config.num_key_value_heads * config.head_dim
    num_linear = config.layer_types.count(LINEAR)
    num_full = config.num_hidden_layers - num_linear
    attention = num_linear * 5 * inner + num_full * 2 * (inner + kv_inner)
    dense = (attention + config.vocab_size) * config.hidden_size
    expert = 3 * config.intermediate_size * config.hidden_size * config.num_hidden_layers
    chosen, experts = config.num_experts_per_tok, config.num_local_experts
    touched = experts * (1 - (1 - chosen / experts) ** rows)
    weight_bytes = (dense + touched * expert) * _FLOAT_BYTES
    flops = 2 * rows * (dense + chosen * expert)
    state_bytes = rows * num_linear * inner * config.head_dim * _FLOAT_BYTES
    with using_threads(threads):
        flop_rate = _gemm_flops(threads)
        read_rate = _read_bytes(_rounded(weight_bytes), threads)
        update_rate = _update_bytes(_rounded(state_bytes), threads)
    gemm, weights, states = (
        flops / flop_rate,
        weight_bytes / read_rate,
        2 * state_bytes / update_rate,
    )
    return {
        "gemm_fraction": gemm / seconds,
        "weight_traffic_fraction": weights / seconds,
        "state_traffic_fraction": states / seconds,
        "bound_fraction": (max(gemm, weights) + states) / seconds,
        "gemm_gflops": flop_rate / 1e9,
        "weight_gbytes_per_second": read_rate / 1e9,
        "state_gbytes_per_second": update_rate / 1e9,
    }


@contextmanager
def using_threads(threads: int) -> Iterator[None]:
    """Let torch, and the kernels that ask it, have so many threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _rounded(num_bytes: float) -> int:
    """To a power of two, at most 256 MiB, so that few sizes are measured."""
    return int(min(2 ** round(num_bytes).bit_length(), 2**28))


@lru_cache
def _gemm_flops(threads: int) -> float:
    return gemm_flops()


@lru_cache
def _read_bytes(num_bytes: int, threads: int) -> float:
    return read_bytes(num_bytes)


@lru_cache
def _update_bytes(num_bytes: int, threads: int) -> float:
    return update_bytes(num_bytes)
