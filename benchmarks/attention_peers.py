"""Implementations of attention that a user of this machine could pick, behind one signature."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import MiniMaxConfig
from transformers.models.minimax.modeling_minimax import MiniMaxLightningAttention

from cispo.policy.lightning.attention import lightning_attention
from cispo.policy.lightning.chunks import chunk_layout

Attend = Callable[[Tensor], Tensor]
"""From qkv [T, H, 3, D], after the activation, to the output [T, H, D]."""

HEADS = 8
LINEAR = ("native", "torch", "transformers", "fla")
"""Those that compute the same numbers; `sdpa` computes softmax attention."""


def make(name: str, qkv: Tensor, slopes: tuple[float, ...]) -> Attend | None:
    """Make an implementation for inputs like these; None where it is not installed."""
    T, H, _, D = qkv.shape
    match name:
        case "native" | "torch":
            layout = chunk_layout(torch.tensor([0, T]), block=64, num_heads=H)
            return lambda x: lightning_attention(x, slopes, layout, kernels=name)[0]
        case "transformers":
            return _transformers(H, D, slopes, qkv.dtype)
        case "sdpa":
            return _softmax
        case "fla":
            return _fla(slopes)
        case _:
            raise ValueError(f"there is no implementation {name}")


class _Attended(Exception):  # noqa: N818 - ends a forward pass where the attention ends
    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output


class _Stop(torch.nn.Module):
    """Takes the place of the norm, which is the first thing after the attention."""

    def forward(self, output: Tensor) -> Tensor:
        raise _Attended(output)


def _transformers(H: int, D: int, slopes: tuple[float, ...], dtype: torch.dtype) -> Attend:
    """Run the library's own layer, without what surrounds the attention."""
    config = MiniMaxConfig(
        hidden_size=H * D,
        num_attention_heads=H,
        head_dim=D,
        num_hidden_layers=1,
        layer_types=["linear_attention"],
        block_size=256,
    )
    layer = MiniMaxLightningAttention(config, 0)
    layer.slope_rate = torch.tensor(slopes).view(-1, 1, 1)
    layer.query_decay, layer.key_decay, layer.diagonal_decay = layer.decay_factors(layer.slope_rate)
    layer.to(dtype)
    layer.qkv_proj = layer.act_fn = torch.nn.Identity()
    layer.norm = _Stop()

    def attend(qkv: Tensor) -> Tensor:
        try:
            layer(qkv.reshape(1, len(qkv), -1), None, None)
        except _Attended as attended:
            return attended.output.view(len(qkv), H, D)
        raise AssertionError("the layer has no norm any more")

    return attend


def _softmax(qkv: Tensor) -> Tensor:
    q, k, v = qkv.permute(2, 1, 0, 3).unsqueeze(1)
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)[0].transpose(0, 1)


def _fla(slopes: tuple[float, ...]) -> Attend | None:
    """The plain-torch form of flash-linear-attention, whose package needs Triton to be imported."""
    package = importlib.util.find_spec("fla")
    if package is None or not package.submodule_search_locations:
        return None
    path = Path(package.submodule_search_locations[0], "ops", "simple_gla", "naive.py")
    spec = importlib.util.spec_from_file_location("fla_naive", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    log_decays = -torch.tensor(slopes)

    def attend(qkv: Tensor) -> Tensor:
        q, k, v = qkv.unsqueeze(0).unbind(3)
        gates = log_decays.expand(1, len(qkv), -1)
        output: Tensor = module.naive_chunk_simple_gla(q, k, v, gates, scale=1.0)[0]
        return output[0]

    return attend
