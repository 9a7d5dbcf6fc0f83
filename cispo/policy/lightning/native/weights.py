"""A model's weights in the order and layout in which the compiled step streams them."""

import ctypes
import mmap
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cispo.policy.lightning.decay import decay_tables
from cispo.policy.lightning.layer import LightningLayer
from cispo.policy.lightning.linear import LightningAttention
from cispo.policy.lightning.model import LightningModel
from cispo.policy.lightning.rotary import frequencies

_POINTER = ctypes.c_void_p
_FLOAT_BYTES = 4
_PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS


class NativeLayer(ctypes.Structure):
    """`Layer` of step_model.h."""

    _fields_ = (
        ("is_linear", ctypes.c_int64),
        *((name, _POINTER) for name in (
            "input_norm", "middle_norm", "projection", "output", "gate", "inner_norm", "loss",
            "router", "gate_up", "down",
        )),
        *((name, ctypes.c_float) for name in (
            "attention_alpha", "attention_beta", "expert_alpha", "expert_beta",
        )),
    )  # fmt: skip


class NativeModel(ctypes.Structure):
    """`Model` of step_model.h."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in (
            "vocabulary", "width", "inner", "heads", "kv_heads", "head_dim", "rotary_half",
            "experts", "top_k", "num_layers",
        )),
        ("layers", ctypes.POINTER(NativeLayer)),
        ("embedding", _POINTER),
        ("embedding_is_bfloat16", ctypes.c_int64),
        ("rounds_operands", ctypes.c_int64),
        ("frequency", _POINTER),
        ("final_norm", _POINTER),
        ("head", _POINTER),
        ("eps", ctypes.c_float),
        ("inner_eps", ctypes.c_float),
    )  # fmt: skip


class _Part(NamedTuple):
    """Weights that lie one after the other behind one pointer.

    Attributes:
        holder: Structure with the pointer.
        field: Name of the pointer.
        weights: Vectors [n] or matrices [out, in], all of one shape.
        halves: 2 for matrices of a gate above what it gates.
        panel: Columns of a panel, if not the usual number.
    """

    holder: Any
    field: str
    weights: list[Tensor]
    halves: int = 1
    panel: int | None = None


class PackedWeights:
    """Panels of a model's weights, and the structures that point to them.

    The embedding is not copied: the step reads the model's own.

    Args:
        library: The compiled kernels.
        model: Float32 or bfloat16 on CPU; read by `refresh` alone.
    """

    def __init__(self, library: ctypes.CDLL, model: LightningModel) -> None:
        self._library, self._model = library, model
        self._panel, self._lanes = int(library.cispo_panel()), int(library.cispo_lanes())
        self._buffer = torch.empty(0)
        config = model.config
        self._layers = (NativeLayer * config.num_hidden_layers)()
        self.native = NativeModel(
            vocabulary=config.vocab_size, width=config.hidden_size, inner=config.intermediate_size,
            heads=config.num_attention_heads, kv_heads=config.num_key_value_heads,
            head_dim=config.head_dim, rotary_half=config.rotary_dim // 2,
            experts=config.num_local_experts, top_k=config.num_experts_per_tok,
            num_layers=config.num_hidden_layers, layers=self._layers, eps=config.rms_norm_eps,
        )  # fmt: skip
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Read the model's weights again."""
        parts = list(self._parts())
        sizes = [len(part.weights) * self._floats(part) for part in parts]
        if sum(sizes) != len(self._buffer):
            self._buffer = _huge_floats(sum(sizes))
        for part, place in zip(parts, torch.split(self._buffer, sizes), strict=True):
            setattr(part.holder, part.field, place.data_ptr())
            pieces = torch.split(place, self._floats(part))
            for weight, piece in zip(part.weights, pieces, strict=True):
                self._pack(weight, part, piece)
        embedding = self._model.model.embed_tokens.weight.detach()
        self._embedding = _readable(embedding)
        self.native.embedding = self._embedding.data_ptr()
        self.native.embedding_is_bfloat16 = int(self._embedding.dtype == torch.bfloat16)
        self.native.rounds_operands = int(embedding.dtype == torch.bfloat16)

    def _parts(self) -> Iterator[_Part]:
        """All weights, in the order of their use."""
        config = self._model.config
        frequency = frequencies(config.rotary_dim, theta=config.rope_theta)
        yield _Part(self.native, "frequency", [frequency])
        for layer, native in zip(self._model.model.layers, self._layers, strict=True):
            assert isinstance(layer, LightningLayer)
            native.is_linear = int(layer.is_linear)
            native.attention_alpha, native.attention_beta = layer.attention_factors
            native.expert_alpha, native.expert_beta = layer.expert_factors
            yield _Part(native, "input_norm", [layer.input_layernorm.weight])
            yield from self._attention(layer, native)
            yield _Part(native, "middle_norm", [layer.post_attention_layernorm.weight])
            mixture = layer.block_sparse_moe
            if mixture.gate is not None:
                panel = _round_up(config.num_local_experts, self._lanes)
                yield _Part(native, "router", [mixture.gate.weight], panel=panel)
            yield _Part(native, "gate_up", list(mixture.experts.gate_up_proj), halves=2)
            yield _Part(native, "down", list(mixture.experts.down_proj))
        yield _Part(self.native, "final_norm", [self._model.model.norm.weight])
        yield _Part(self.native, "head", [self._model.lm_head.weight])

    def _attention(self, layer: LightningLayer, native: NativeLayer) -> Iterator[_Part]:
        attention = layer.self_attn
        if isinstance(attention, LightningAttention):
            cpu = torch.device("cpu")
            loss = decay_tables(attention.slopes, 1, torch.float32, cpu).loss
            self.native.inner_eps = attention.norm.eps
            yield _Part(native, "loss", [loss.view(-1)])
            yield _Part(native, "projection", [attention.qkv_proj.weight])
            yield _Part(native, "gate", [attention.output_gate.weight])
            yield _Part(native, "inner_norm", [attention.norm.weight])
            yield _Part(native, "output", [attention.out_proj.weight])
        else:
            three = (attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight)
            yield _Part(native, "projection", [torch.cat(three)])
            yield _Part(native, "output", [attention.o_proj.weight])

    def _floats(self, part: _Part) -> int:
        """Size of one of a part's weights."""
        shape, columns = part.weights[0].shape, self._columns(part)
        return _round_up(shape[0], columns) * (shape[1] if len(shape) == 2 else 1)

    def _columns(self, part: _Part) -> int:
        return part.panel or self._panel

    def _pack(self, weight: Tensor, part: _Part, place: Tensor) -> None:
        if weight.dim() == 1:
            place.zero_()[: len(weight)].copy_(weight)
            return
        source = _readable(weight.detach())
        out, inputs = source.shape
        self._library.cispo_pack(
            _POINTER(source.data_ptr()), ctypes.c_int64(source.dtype == torch.bfloat16),
            *map(ctypes.c_int64, (out, inputs, part.halves, self._columns(part))),
            _POINTER(place.data_ptr()),
        )  # fmt: skip


def _round_up(count: int, step: int) -> int:
    return -(-count // step) * step


def _readable(weight: Tensor) -> Tensor:
    """The weight itself where the compiled code can read it, else a float32 copy."""
    known = weight.dtype in (torch.float32, torch.bfloat16)
    return (weight if known else weight.float()).contiguous()


def _huge_floats(count: int) -> Tensor:
    """Memory on huge pages where the system has them: panels are streams of many megabytes."""
    # shared memory, the default, would not get any
    memory = mmap.mmap(-1, max(count, 1) * _FLOAT_BYTES, flags=_PRIVATE)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.float32, count=count)
