"""The feed-forward half of a layer: gated experts behind a float32 router, no token dropped."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from cispo.policy.lightning.feedforward import feed_forward, swiglu, swiglu_backward

_DENSE_EXPERTS = 8
"""Up to this many experts, inference runs all of them on all tokens: fixed shapes make a token's
result independent of the other tokens, and with few rows weight traffic is the cost anyway."""


class Routing(NamedTuple):
    """Where the router sends N tokens.

    Attributes:
        experts: [N, k] experts of each token.
        weights: [N, k] float32 weights, each row sums to one.
        probabilities: [N, E] float32 softmax over all experts, for the balance loss.
    """

    experts: Tensor
    weights: Tensor
    probabilities: Tensor


def route(logits: Tensor, *, top_k: int) -> Routing:
    """Softmax over all experts in float32, keep the `top_k` likeliest, renormalise them."""
    probabilities = torch.softmax(logits.float(), dim=-1)
    weights, experts = torch.topk(probabilities, top_k, dim=-1)
    return Routing(experts, weights / weights.sum(-1, keepdim=True), probabilities)


def balance_loss(routing: Routing) -> Tensor:
    """GShard's balance loss E sum_e f_e m_e: 1 where experts share evenly, E where one gets all.

    f_e is the share of assignments that expert e received, m_e its mean probability.
    """
    num_experts = routing.probabilities.shape[-1]
    share = (
        torch.bincount(routing.experts.view(-1), minlength=num_experts) / routing.experts.numel()
    )
    return num_experts * torch.dot(share, routing.probabilities.mean(0))


class _SwiGlu(torch.autograd.Function):
    """`swiglu`, whose gradient is written into one tensor."""

    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        return swiglu(gate_up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (gate_up,) = ctx.saved_tensors
        grad_gate_up = torch.empty_like(gate_up)
        swiglu_backward(grad, gate_up, grad_gate_up)
        return grad_gate_up


class _Dispatch(torch.autograd.Function):
    """Copy tokens [N, d] into the order of assignments [N k, d]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, inverse: Tensor, top_k: int) -> Tensor:
        ctx.save_for_backward(inverse)
        ctx.top_k = top_k
        return x.index_select(0, order // top_k)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (inverse,) = ctx.saved_tensors
        grad = grad.index_select(0, inverse)
        return grad.view(-1, ctx.top_k, grad.shape[-1]).sum(1), None, None, None


class _Combine(torch.autograd.Function):
    """Weighted sum [N, d] of the experts' outputs [N k, d] in the order of assignments."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, weights: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(y, weights, order, inverse)
        by_token = y.index_select(0, inverse).view(*weights.shape, y.shape[-1])
        return torch.bmm(weights.to(y.dtype).unsqueeze(1), by_token).squeeze(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        y, weights, order, inverse = ctx.saved_tensors
        by_token = y.index_select(0, inverse).view(*weights.shape, y.shape[-1])
        grad_weights = torch.bmm(by_token, grad.unsqueeze(-1)).squeeze(-1).to(weights.dtype)
        grad_y = grad.index_select(0, order // weights.shape[1])
        grad_y.mul_(weights.view(-1, 1)[order].to(y.dtype))
        return grad_y, grad_weights, None, None


class Experts(nn.Module):
    """E expert networks w2(silu(w1 x) * w3 x), stacked so that one operation serves all of them.

    Attributes:
        gate_up_proj: [E, 2 I, d] w1 above w3.
        down_proj: [E, d, I] w2.
    """

    def __init__(self, num_experts: int, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_up_proj = nn.Parameter(
            torch.empty(num_experts, 2 * intermediate_size, hidden_size)
        )
        self.down_proj = nn.Parameter(torch.empty(num_experts, hidden_size, intermediate_size))

    def forward(self, x: Tensor, routing: Routing | None) -> Tensor:
        """Run tokens x [N, d] through their experts; without a routing, through the only one."""
        if routing is None:
            return feed_forward(x, self.gate_up_proj.squeeze(0), self.down_proj.squeeze(0))
        if not torch.is_grad_enabled() and len(self.down_proj) <= _DENSE_EXPERTS:
            return self._all_experts(x, routing)
        return self._grouped(x, routing)

    def _grouped(self, x: Tensor, routing: Routing) -> Tensor:
        assigned, order = routing.experts.view(-1).sort(stable=True)
        inverse = torch.empty_like(order)
        inverse[order] = torch.arange(len(order), device=order.device)
        experts = torch.arange(len(self.down_proj), device=order.device)
        ends = torch.searchsorted(assigned, experts, right=True).to(torch.int32)
        inputs = _Dispatch.apply(  # type: ignore[no-untyped-call]
            x, order, inverse, routing.experts.shape[1]
        )
        gate_up = F.grouped_mm(inputs, self.gate_up_proj.transpose(1, 2), offs=ends)
        inner = _SwiGlu.apply(gate_up)  # type: ignore[no-untyped-call]
        outputs = F.grouped_mm(inner, self.down_proj.transpose(1, 2), offs=ends)
        combined: Tensor = _Combine.apply(  # type: ignore[no-untyped-call]
            outputs, routing.weights, order, inverse
        )
        return combined

    def _all_experts(self, x: Tensor, routing: Routing) -> Tensor:
        num_experts, width, _ = self.gate_up_proj.shape
        gate_up = F.linear(x, self.gate_up_proj.view(num_experts * width, -1))
        gate, up = gate_up.view(len(x), num_experts, 2, width // 2).unbind(2)
        inner = F.silu(gate).mul_(up)
        share = torch.zeros_like(routing.probabilities)
        share.scatter_(1, routing.experts, routing.weights)
        inner.mul_(share.to(x.dtype).unsqueeze(-1))
        return torch.bmm(inner.transpose(0, 1), self.down_proj.transpose(1, 2)).sum(0)


class MixtureOfExperts(nn.Module):
    """Router and experts; with one expert there is no router."""

    def __init__(
        self, num_experts: int, *, top_k: int, hidden_size: int, intermediate_size: int
    ) -> None:
        super().__init__()
        self.top_k = top_k
        self.experts = Experts(num_experts, hidden_size, intermediate_size)
        self.gate = Router(hidden_size, num_experts) if num_experts > 1 else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Run tokens x [N, d]; return the output and the balance loss, if there is a router."""
        if self.gate is None:
            return self.experts(x, None), None
        routing = route(self.gate(x), top_k=self.top_k)
        loss = balance_loss(routing) if torch.is_grad_enabled() else None
        return self.experts(x, routing), loss


class Router(nn.Module):
    """Logits of the experts, in float32 whatever the model's dtype."""

    def __init__(self, hidden_size: int, num_experts: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_experts, hidden_size))

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens x [N, d] to logits [N, E]."""
        return F.linear(x.float(), self.weight.float())
