"""Tensors that transformers stores although config.json decides them."""

import math

import torch
from torch import Tensor

from cispo.errors import ConfigError
from cispo.policy.lightning.config import LINEAR, LightningConfig
from cispo.policy.lightning.decay import RELEASED, TRANSFORMERS, layer_slopes
from cispo.policy.lightning.formats.layouts import StoredTensor
from cispo.policy.lightning.formats.parts import Part, in_memory

_TOLERANCE = 0.01
"""Relative error of stored slopes; transformers rounds them to bfloat16, which is 0.004."""


def is_derived(name: str) -> bool:
    """Whether a tensor may be computed from config.json alone."""
    return name.endswith((".slope_rate", "_decay"))


def derived_part(config: LightningConfig, stored: StoredTensor) -> Part:
    """A tensor that is computed when it is written, because all of them may not fit in memory."""
    return Part(
        dtype="F32",
        num_elements=math.prod(stored.shape),
        blocks=lambda: in_memory(derived_tensor(config, stored.parts[0])).blocks(),
    )


def derived_tensor(config: LightningConfig, name: str) -> Tensor:
    """Compute a tensor that only transformers stores, in float32.

    Its decays are kept for a block of `block_size` tokens i = 1..B: lambda^i for queries,
    lambda^(B-i) for keys, lambda^(i-j) on the diagonal. A layer of one expert has a router there,
    whose weights do not matter.
    """
    if name.endswith(".block_sparse_moe.gate.weight"):
        return torch.zeros(config.num_local_experts, config.hidden_size)
    layer = int(name.split(".")[2])
    slopes = slope_tensor(config, layer, rule=config.slope_rule)
    position = torch.arange(1, config.block_size + 1)
    match name.rpartition(".")[2]:
        case "slope_rate":
            return slopes
        case "query_decay":
            return torch.exp(-slopes * position.view(-1, 1))
        case "key_decay":
            return torch.exp(-slopes * (config.block_size - position.view(-1, 1)))
        case "diagonal_decay":
            distance = slopes * (position.view(-1, 1) - position.view(1, -1)).view(
                1, 1, config.block_size, config.block_size
            )
            return torch.where(distance >= 0, torch.exp(-distance), 0.0)
        case _:
            raise ValueError(f"{name} is not derived from config.json")


def slope_tensor(config: LightningConfig, layer: int, *, rule: str) -> Tensor:
    """Slopes [H, 1, 1] of a layer; by transformers' rule, rounded as transformers rounds them."""
    H, last = config.num_attention_heads, config.num_hidden_layers - 1
    if rule == TRANSFORMERS:
        slopes = torch.pow(1 / 2 ** (8 / H), torch.arange(1, H + 1))
        slopes = slopes * (1 - layer / (last + 1e-5) + 1e-5)
    else:
        slopes = torch.tensor(layer_slopes(H, layer=layer, num_layers=last + 1, rule=rule))
    return slopes.view(H, 1, 1)


def slope_rule_of(config: LightningConfig, slope_rate: Tensor, layer: int, *, where: str) -> str:
    """Tell whose slopes a folder stores.

    Raises:
        ConfigError: Nobody's: the model forgets in another way than is implemented.
    """
    error = {}
    for rule in (TRANSFORMERS, RELEASED):
        expected = slope_tensor(config, layer, rule=rule)
        error[rule] = float(((slope_rate.float() - expected) / expected).abs().max())
    nearest = min(error, key=lambda rule: error[rule])
    if not error[nearest] <= _TOLERANCE:
        raise ConfigError(
            f"{where}: model.layers.{layer}.self_attn.slope_rate={slope_rate.flatten().tolist()}: "
            f"differs by up to {error[nearest]:.0%} from all slopes that are implemented"
        )
    return nearest


def do_slopes_differ(config: LightningConfig) -> bool:
    """Whether the rules for slopes differ by more than 1e-5 anywhere in a model."""
    H = config.num_attention_heads
    is_power_of_two = H & (H - 1) == 0
    return config.layer_types[-1] == LINEAR or (
        LINEAR in config.layer_types and not is_power_of_two
    )
