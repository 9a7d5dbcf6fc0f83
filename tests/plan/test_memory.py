from dataclasses import replace
from typing import Any

import pytest
import torch

from benchmarks.kept_tensors import LIGHTNING, SOFTMAX, kept_bytes
from cispo.plan.architecture import Architecture
from cispo.plan.memory import (
    Memory,
    activation_bytes_per_token,
    engine_memory,
    kept_bytes_per_token,
    learner_memory,
    most_sequences,
)
from cispo.plan.published import M1
from cispo.plan.reading import read_architecture
from cispo.policy.lightning.config import LightningConfig
from cispo.policy.lightning.model import LightningModel

FIELDS: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "layer_types": ["linear_attention", "full_attention"],
}


def small() -> Architecture:
    return read_architecture(FIELDS, where="small")


def rank(model: Architecture, **changes: Any) -> Memory:
    settings: dict[str, Any] = {
        "number_bytes": 2,
        "num_ranks": 4,
        "zero_stage": 1,
        "offload": "none",
        "row_tokens": 1000,
        "sequence_parallel": 1,
        "recompute_layers": False,
        "logprob_chunk": 100,
    }
    return learner_memory(model, **{**settings, **changes})


def test_an_engine_holds_weights_states_and_pages() -> None:
    found = engine_memory(
        M1, number_bytes=2, num_devices=16, max_sequences=32, context_tokens=1000
    ).parts
    assert found["weights"] == 912_210_767_872 / 16
    assert found["lightning states"] == 32 * 280 * 2**20 / 16
    assert found["keys and values"] == 32 * 1024 * 40_960 / 16  # 16 pages of 64 tokens


def test_as_many_sequences_fit_as_are_said_to() -> None:
    settings: dict[str, Any] = {"number_bytes": 2, "num_devices": 16, "context_tokens": 8192}
    count = most_sequences(M1, **settings, device_bytes=72e9)
    assert count > 0
    assert engine_memory(M1, **settings, max_sequences=count).total <= 72e9
    assert engine_memory(M1, **settings, max_sequences=count + 1).total > 72e9


def test_no_sequence_fits_beside_weights_that_do_not() -> None:
    none = most_sequences(M1, number_bytes=2, num_devices=8, context_tokens=1, device_bytes=72e9)
    assert none == 0


@pytest.mark.parametrize(
    ("stage", "weights", "gradients", "optimizer"),
    [(1, 2, 4, 12 / 4), (2, 2, 4 / 4, 12 / 4), (3, 2 / 4, 4 / 4, 12 / 4)],
)
def test_zero_divides_more_at_each_stage(
    stage: int, weights: float, gradients: float, optimizer: float
) -> None:
    found, count = rank(small(), zero_stage=stage).parts, small().parameters
    assert found["weights"] == weights * count
    assert found["gradients"] == gradients * count
    assert found["optimizer"] == optimizer * count


def test_float32_at_stage_0_takes_sixteen_bytes_a_parameter() -> None:
    found = rank(small(), zero_stage=0, number_bytes=4).parts
    states = found["weights"] + found["gradients"] + found["optimizer"]
    assert states == 16 * small().parameters


def test_offloading_moves_bytes_to_the_host() -> None:
    here = rank(small(), zero_stage=3)
    away = rank(small(), zero_stage=3, offload="optimizer_and_weights")
    moved = ("weights", "gradients", "optimizer")
    assert not set(moved) & set(away.parts)
    assert away.host_parts == {name: here.parts[name] for name in moved}
    assert here.host_total == 0


def test_ranks_that_share_a_row_divide_its_activations() -> None:
    alone, shared = rank(small()), rank(small(), sequence_parallel=4)
    assert shared.parts["activations"] == alone.parts["activations"] / 4


def test_recomputed_layers_keep_their_inputs_and_one_layer() -> None:
    d, b = 64, 2
    lightning, softmax = small().blocks
    largest = max(kept_bytes_per_token(block, d, b) for block in (lightning, softmax))
    deep = replace(small(), blocks=(replace(lightning, count=7), softmax))
    found = activation_bytes_per_token(deep, number_bytes=b, recompute_layers=True)
    assert found == 2 * 4 * d + 8 * 4 * d + 64 * b + largest
    assert found < activation_bytes_per_token(deep, number_bytes=b, recompute_layers=False)


def test_logits_are_gone_before_a_layer_is_computed_again() -> None:
    few = {"row_tokens": 100, "logprob_chunk": 100}
    logits = 2 * 4 * 100 * 512
    largest = 100 * 3200  # bytes of a token that the lightning layer keeps
    assert rank(small(), **few).parts["logits"] == logits
    assert rank(small(), **few, recompute_layers=True).parts["logits"] == logits - largest
    assert rank(small(), recompute_layers=True).parts["logits"] == 0


def test_a_process_and_its_allocator_take_their_part() -> None:
    bare, real = rank(small()), rank(small(), process_bytes=1e6, activation_factor=1.5)
    assert real.total == bare.total + 1e6 + bare.parts["activations"] / 2


@pytest.mark.parametrize(
    ("changes", "dtype"),
    [
        ({}, torch.float32),
        ({}, torch.bfloat16),
        ({"num_attention_heads": 8}, torch.float32),
        ({"num_local_experts": 4, "num_experts_per_tok": 2}, torch.float32),
    ],
)
def test_kept_bytes_are_those_that_autograd_keeps(
    changes: dict[str, int], dtype: torch.dtype
) -> None:
    fields = {**FIELDS, **changes}
    model = LightningModel(LightningConfig.from_dict({**fields, "rotary_dim": 8}), kernels="torch")
    model.initialise(0)
    model.to(dtype)
    tokens = 512
    ids = torch.arange(tokens) % 512
    ends = torch.tensor([0, tokens], dtype=torch.int32)
    found = kept_bytes(model, lambda: model(ids, ends, torch.arange(tokens) > 0))
    blocks = read_architecture(fields, where="small").blocks
    for name, block in zip((LIGHTNING, SOFTMAX), blocks, strict=True):
        expected = kept_bytes_per_token(block, 64, dtype.itemsize)
        assert expected == pytest.approx(found[name] / tokens, rel=0.1)
