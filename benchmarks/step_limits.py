"""How near one decoding step is to what the machine's memory and multipliers allow."""

from functools import lru_cache

from benchmarks.machine_limits import gemm_flops, read_bytes, update_bytes
from cispo.policy.lightning.config import LINEAR, LightningConfig

_FLOAT_BYTES = 4


def step_limits(config: LightningConfig, *, rows: int, seconds: float) -> dict[str, float]:
    """Compare a step's time with its bounds, on one thread.

    Weights are read once, which the products can hide; then states are read and written.

    Args:
        config: Of the model.
        rows: Sequences that advance.
        seconds: Measured time of a step.
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
    gemm = flops / _gemm_flops()
    weights = weight_bytes / _read_bytes(_rounded(weight_bytes))
    states = 2 * state_bytes / _update_bytes(_rounded(state_bytes))
    return {
        "gemm_fraction": gemm / seconds,
        "weight_traffic_fraction": weights / seconds,
        "state_traffic_fraction": states / seconds,
        "bound_fraction": (max(gemm, weights) + states) / seconds,
        "gemm_gflops": _gemm_flops() / 1e9,
        "weight_gbytes_per_second": weight_bytes / weights / 1e9,
        "state_gbytes_per_second": 2 * state_bytes / states / 1e9,
    }


def _rounded(num_bytes: float) -> int:
    """To a power of two, at most 256 MiB, so that few sizes are measured."""
    return int(min(2 ** round(num_bytes).bit_length(), 2**28))


_gemm_flops = lru_cache(gemm_flops)
_read_bytes = lru_cache(read_bytes)
_update_bytes = lru_cache(update_bytes)
