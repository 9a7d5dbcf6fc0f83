"""Tiny models of transformers' own MiniMax, and the content of folders to the bit."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor
from transformers import MiniMaxConfig, MiniMaxForCausalLM

LINEAR, FULL = "linear_attention", "full_attention"


def network(**changes: object) -> MiniMaxForCausalLM:
    """A model of transformers with random weights, gains included."""
    values: dict[str, object] = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "layer_types": [LINEAR, FULL, LINEAR],
        "num_local_experts": 3,
        "num_experts_per_tok": 2,
        "block_size": 16,
        "rope_parameters": {"rope_theta": 5000.0, "rope_type": "default"},
        "full_attn_alpha_factor": 1.7,
        "linear_attn_alpha_factor": 1.6,
        "mlp_alpha_factor": 1.5,
        "mlp_beta_factor": 0.9,
    }
    torch.manual_seed(0)
    model = MiniMaxForCausalLM(MiniMaxConfig(**{**values, **changes})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            noise = 0.2 * torch.randn_like(parameter)
            parameter.copy_(1 + noise if parameter.dim() == 1 else noise)
    return model


def stored(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder, read by the library of the format."""
    tensors: dict[str, Tensor] = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as shard:
            tensors |= {name: shard.get_tensor(name) for name in shard.keys()}  # noqa: SIM118
    return tensors


def same_bits(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    """Whether names, types, shapes and bits are equal."""
    return ours.keys() == theirs.keys() and all(
        ours[name].dtype == tensor.dtype
        and torch.equal(ours[name].view(torch.uint8), tensor.view(torch.uint8))
        for name, tensor in theirs.items()
    )


class Folders:
    """What the tests of stored models share."""

    network = staticmethod(network)
    stored = staticmethod(stored)
    same_bits = staticmethod(same_bits)


@pytest.fixture(scope="session")
def folders() -> Folders:
    return Folders()
