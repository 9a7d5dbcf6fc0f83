"""Small hybrids with random weights, and packed rows for them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cispo.policy.lightning.config import FULL, LINEAR, LightningConfig
from cispo.policy.lightning.model import LightningModel

torch.set_num_threads(1)


def make_config(**changes: object) -> LightningConfig:
    values: dict[str, object] = {
        "vocab_size": 96,
        "hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "layer_types": (LINEAR, FULL, LINEAR, LINEAR),
        "rotary_dim": 8,
        "num_local_experts": 3,
        "num_experts_per_tok": 2,
        "full_attn_alpha_factor": 1.7,
        "linear_attn_alpha_factor": 1.6,
        "mlp_alpha_factor": 1.5,
        "mlp_beta_factor": 0.9,
        "block_size": 16,
    }
    return LightningConfig(**{**values, **changes})  # type: ignore[arg-type]


def make_model(seed: int = 0, *, kernels: str = "auto", **changes: object) -> LightningModel:
    model = LightningModel(make_config(**changes), logprob_chunk=50, kernels=kernels)
    model.initialise(seed)
    with torch.no_grad():  # gains other than one, so that a forgotten one is noticed
        generator = torch.Generator().manual_seed(seed + 1)
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def pack(sequences: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    ends = torch.tensor([0, *(len(s) for s in sequences)]).cumsum(0).to(torch.int32)
    return torch.cat(list(sequences)), ends


def random_ids(count: int, *, seed: int = 0, vocabulary: int = 96) -> Tensor:
    return torch.randint(vocabulary, (count,), generator=torch.Generator().manual_seed(seed))


def actions(ends: Tensor) -> Tensor:
    """Mask of all tokens but each sequence's first."""
    mask = torch.ones(int(ends[-1]), dtype=torch.bool)
    mask[ends[:-1].long()] = False
    return mask
