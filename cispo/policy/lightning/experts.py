"""Expert networks in one stack, each token through those that its router chose, none dropped."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cispo.policy.lightning.feedforward import feed_forward, swiglu, swiglu_backward
from cispo.policy.lightning.kernels import runs_native
from cispo.policy.lightning.native.experts import native_experts
from cispo.policy.lightning.second_derivative import refuse_second_derivative


class Routing(NamedTuple):
    """Where the router sends N tokens.

    Attributes:
        experts: [N, k] experts of each token.
        weights: [N, k] float32 weights, each row sums to one.
        probabilities: [N, E] float32 softmax over all experts, for the balance loss.
        counts: [E] int64 tokens that each expert gets.
    """

    experts: Tensor
    weights: Tensor
    probabilities: Tensor
    counts: Tensor


class Experts(nn.Module):
    """E expert networks w2(silu(w1 x) * w3 x), stacked so that one operation serves all of them.

    Attributes:
        gate_up_proj: [E, 2 I, d] w1 above w3.
        down_proj: [E, d, I] w2.
        kernels: As `resolve_kernels` reads it; native computes in float32 only.
    """

    def __init__(
        self,
        num_experts: int,
        hidden_size: int,
        intermediate_size: int,
        *,
        kernels: str = "auto",
    ) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(
            torch.empty(num_experts, 2 * intermediate_size, hidden_size)
        )
        self.down_proj = nn.Parameter(torch.empty(num_experts, hidden_size, intermediate_size))
        self.kernels = kernels

    def forward(self, x: Tensor, routing: Routing | None) -> Tensor:
        """Run tokens x [N, d] through their experts; without a routing, through the only one.

        With the native kernels, and under MKL_CBWR=AUTO,STRICT with the others on a CPU, a token's
        bits do not depend on the tokens beside it.
        """
        x = x.to(self.down_proj.dtype)
        if routing is None:
            only = self.gate_up_proj.squeeze(0), self.down_proj.squeeze(0)
            return feed_forward(x, *only, kernels=self.kernels)
        order = routing.experts.view(-1).argsort(stable=True)
        places = torch.empty_like(order)
        places[order] = torch.arange(len(order), device=order.device)
        ends = routing.counts.cumsum(0)
        run = native_experts if runs_native(self.kernels, x) else _grouped_experts
        return run(x, routing.weights, order, places, ends, self.gate_up_proj, self.down_proj)


def _grouped_experts(
    x: Tensor,
    weights: Tensor,
    order: Tensor,
    places: Tensor,
    ends: Tensor,
    gate_up_proj: Tensor,
    down_proj: Tensor,
) -> Tensor:
    """The same as `native_experts`, with torch's grouped matrix products.

    Results of bfloat16 operands are float32 on CPUs, and rounded on CUDA, where torch's grouped
    product knows nothing else.
    """
    groups, narrow = ends.to(torch.int32), x.dtype
    wide = narrow if x.is_cuda else torch.promote_types(narrow, torch.float32)
    inputs = _Dispatch.apply(x, order, places, weights.shape[1])  # type: ignore[no-untyped-call]
    gate_up = _grouped_product(inputs.to(wide), gate_up_proj.to(wide).transpose(1, 2), groups)
    inner = _SwiGlu.apply(gate_up).to(narrow).to(wide)  # type: ignore[no-untyped-call]
    outputs = _grouped_product(inner, down_proj.to(wide).transpose(1, 2), groups)
    combined: Tensor = _Combine.apply(  # type: ignore[no-untyped-call]
        outputs, weights, order, places
    )
    return combined


def _grouped_product(x: Tensor, matrices: Tensor, ends: Tensor) -> Tensor:
    """Rows x [N, K] through the matrix [E, K, M] of their group, which ends at `ends` [E]."""
    if len(x) and x.dtype != torch.float64:
        return F.grouped_mm(x, matrices, offs=ends)
    groups = x.tensor_split(ends[:-1].tolist())  # torch's own knows neither float64 nor no rows
    return torch.cat([rows @ matrix for rows, matrix in zip(groups, matrices, strict=True)])


class _SwiGlu(torch.autograd.Function):
    """`swiglu`, whose gradient is written into one tensor."""

    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        return swiglu(gate_up)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        refuse_second_derivative()
        (gate_up,) = ctx.saved_tensors
        grad_gate_up = torch.empty_like(gate_up)
        swiglu_backward(grad, gate_up, grad_gate_up)
        return grad_gate_up


class _Dispatch(torch.autograd.Function):
    """Copy tokens [N, d] into the order of assignments [N k, d]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, places: Tensor, top_k: int) -> Tensor:
        ctx.save_for_backward(places)
        ctx.top_k = top_k
        return x.index_select(0, order // top_k)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        refuse_second_derivative()
        (places,) = ctx.saved_tensors
        grad = grad.index_select(0, places)
        return grad.view(-1, ctx.top_k, grad.shape[-1]).sum(1), None, None, None


class _Combine(torch.autograd.Function):
    """Weighted sum [N, d] of the experts' outputs [N k, d] in the order of assignments."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, weights: Tensor, order: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(y, weights, order, places)
        by_token = y.index_select(0, places).view(*weights.shape, y.shape[-1])
        return torch.bmm(weights.to(y.dtype).unsqueeze(1), by_token).squeeze(1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        refuse_second_derivative()
        y, weights, order, places = ctx.saved_tensors
        by_token = y.index_select(0, places).view(*weights.shape, y.shape[-1])
        grad_weights = torch.bmm(by_token, grad.unsqueeze(-1)).squeeze(-1).to(weights.dtype)
        grad_y = grad.index_select(0, order // weights.shape[1])
        grad_y.mul_(weights.view(-1, 1)[order].to(y.dtype))
        return grad_y, grad_weights, None, None
