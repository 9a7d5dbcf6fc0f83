"""A mixture of experts by the C++ kernels, from tokens and routing to their sum and back."""

import ctypes
from typing import Any

import torch
from torch import Tensor

from cispo.policy.lightning.native.build import require_native
from cispo.policy.lightning.second_derivative import refuse_second_derivative


class _Problem(ctypes.Structure):
    """What one call reads and writes; the same layout as `Problem` in experts.cpp."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in (
            "x", "weights", "order", "places", "ends", "gate_up_proj", "down_proj", "gate_up",
            "rows", "output", "grad_output", "grad_x", "grad_weights", "grad_gate_up_proj",
            "grad_down_proj",
        )),
        *((name, ctypes.c_int64) for name in (
            "num_tokens", "top_k", "num_experts", "hidden", "inner", "num_threads",
        )),
    )  # fmt: skip


def native_experts(
    x: Tensor,
    weights: Tensor,
    order: Tensor,
    places: Tensor,
    ends: Tensor,
    gate_up_proj: Tensor,
    down_proj: Tensor,
) -> Tensor:
    """Run tokens through their experts, on the CPU in float32; see `cispo...experts.run_experts`.

    A token's bits depend neither on the other tokens nor on the number of threads
    (`torch.get_num_threads()`).

    Args:
        x: [N, d].
        weights: [N, k] of the router.
        order: [N k] int64 assignments sorted by expert; assignment i is slot i % k of token i // k.
        places: [N k] int64, the inverse of `order`.
        ends: [E] int64, where each expert's assignments end in `order`.
        gate_up_proj: [E, 2 I, d].
        down_proj: [E, d, I].

    Returns:
        [N, d].

    Raises:
        ConfigError: The kernels cannot be built here.
    """
    output: Tensor = _NativeExperts.apply(  # type: ignore[no-untyped-call]
        x, weights, order, places, ends, gate_up_proj, down_proj
    )
    return output


class _NativeExperts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        tensors = _contiguous(inputs)
        x, weights = tensors["x"], tensors["weights"]
        if any(ctx.needs_input_grad):
            size = require_native().cispo_experts_kept
            size.restype = ctypes.c_int64
            kept = size(ctypes.byref(_problem(tensors)))
            tensors["gate_up"] = x.new_empty(kept)
            ctx.save_for_backward(*tensors.values())
        output = torch.empty_like(x)
        scratch = {"rows": x.new_empty(weights.numel(), x.shape[1]), "output": output}
        require_native().cispo_experts_forward(ctypes.byref(_problem(tensors | scratch)))
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        tensors = dict(zip((*_INPUTS, "gate_up"), ctx.saved_tensors, strict=True))
        x, weights = tensors["x"], tensors["weights"]
        grads = {
            f"grad_{name}": torch.empty_like(tensors[name])
            for name in ("x", "weights", "gate_up_proj", "down_proj")
        }
        tensors["rows"] = x.new_empty(weights.numel(), x.shape[1])
        tensors["grad_output"] = grad_output.contiguous()
        require_native().cispo_experts_backward(ctypes.byref(_problem(tensors | grads)))
        grad_x, grad_weights, *grad_projections = grads.values()
        return grad_x, grad_weights, None, None, None, *grad_projections


_INPUTS = ("x", "weights", "order", "places", "ends", "gate_up_proj", "down_proj")


def _contiguous(inputs: tuple[Tensor, ...]) -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in zip(_INPUTS, inputs, strict=True)}


def _problem(tensors: dict[str, Tensor]) -> _Problem:
    num_experts, hidden, inner = tensors["down_proj"].shape
    num_tokens, top_k = tensors["weights"].shape
    return _Problem(
        **{name: tensor.data_ptr() for name, tensor in tensors.items()},
        num_tokens=num_tokens,
        top_k=top_k,
        num_experts=num_experts,
        hidden=hidden,
        inner=inner,
        num_threads=torch.get_num_threads(),
    )
