"""The gated feed-forward network w2(silu(w1 x) * w3 x) in slabs of tokens that stay in a cache."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from cispo.policy.lightning.kernels import runs_native
from cispo.policy.lightning.native.rowwise import native_swiglu, native_swiglu_backward
from cispo.policy.lightning.projection import product
from cispo.policy.lightning.second_derivative import refuse_second_derivative
from cispo.policy.precision import widened

_SLAB_BYTES = 2**20
"""Size of a slab's inner activations: products keep their speed, the rest is read from cache."""


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate) * up of [N, 2 I], gate before up -> [N, I]."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate).mul_(up)


def swiglu_backward(grad: Tensor, gate_up: Tensor, grad_gate_up: Tensor) -> Tensor:
    """Write the gradient of `swiglu` into `grad_gate_up` [N, 2 I]; return swiglu(gate_up) again."""
    gate, up = gate_up.chunk(2, dim=-1)
    grad_gate, grad_up = grad_gate_up.chunk(2, dim=-1)
    activated = F.silu(gate)
    torch.mul(grad, activated, out=grad_up)
    torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=grad_gate)
    return activated.mul_(up)


class _FeedForward(torch.autograd.Function):
    """Keeps gate_up alone for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gate_up_proj: Tensor, down_proj: Tensor, is_native: bool
    ) -> Tensor:
        activated = native_swiglu if is_native else swiglu
        gate_up = x.new_empty(len(x), len(gate_up_proj))
        output = torch.empty_like(widened(x))
        for part in _slabs(gate_up):
            if x.dtype == torch.bfloat16:
                wide = product(x[part], gate_up_proj.t())
                gate_up[part] = wide  # rounded for the backward pass alone
                output[part] = product(swiglu(wide).to(x.dtype), down_proj.t())
            else:
                torch.mm(x[part], gate_up_proj.t(), out=gate_up[part])
                torch.mm(activated(gate_up[part]), down_proj.t(), out=output[part])
        ctx.save_for_backward(x, gate_up, gate_up_proj, down_proj)
        ctx.activation_backward = native_swiglu_backward if is_native else swiglu_backward
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        refuse_second_derivative()
        x, gate_up, gate_up_proj, down_proj = ctx.saved_tensors
        grad = grad.to(x.dtype)
        grad_x = torch.empty_like(x)
        grad_gate_up_proj = torch.zeros_like(gate_up_proj)
        grad_down_proj = torch.zeros_like(down_proj)
        for part in _slabs(gate_up):
            grad_inner = torch.mm(grad[part], down_proj)
            grad_gate_up = torch.empty_like(gate_up[part])
            inner = ctx.activation_backward(grad_inner, gate_up[part], grad_gate_up)
            grad_down_proj.addmm_(grad[part].t(), inner)
            grad_gate_up_proj.addmm_(grad_gate_up.t(), x[part])
            torch.mm(grad_gate_up, gate_up_proj, out=grad_x[part])
        return grad_x, grad_gate_up_proj, grad_down_proj, None


def feed_forward(
    x: Tensor, gate_up_proj: Tensor, down_proj: Tensor, *, kernels: str = "auto"
) -> Tensor:
    """Run x [N, d] through w1 over w3 [2 I, d] and w2 [d, I]; of bfloat16 the result is float32."""
    is_native = runs_native(kernels, x)
    if (
        x.dtype != torch.bfloat16
        and not torch.is_grad_enabled()
        and gate_up_proj.shape[0] * len(x) * x.element_size() <= _SLAB_BYTES
    ):
        activated = native_swiglu if is_native else swiglu
        return F.linear(activated(F.linear(x, gate_up_proj)), down_proj)
    output: Tensor = _FeedForward.apply(  # type: ignore[no-untyped-call]
        x, gate_up_proj, down_proj, is_native
    )
    return output


def _slabs(gate_up: Tensor) -> list[slice]:
    """Equal slabs, none of them small; bfloat16 gets one, because its sums lose bits when split."""
    tokens = len(gate_up)
    rows = max(64, _SLAB_BYTES // (gate_up.shape[1] * gate_up.element_size()))
    count = -(-tokens // rows) if gate_up.dtype != torch.bfloat16 else min(tokens, 1)
    return [slice(tokens * i // count, tokens * (i + 1) // count) for i in range(count)]
