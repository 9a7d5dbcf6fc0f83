"""Matrix products that round their operands to the weights' dtype, and never their results."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cispo.policy.lightning.second_derivative import refuse_second_derivative


class Projection(nn.Linear):
    """W x without bias; x is rounded to the dtype of W.

    In a bfloat16 model the operands of products are all that is bfloat16, queries, keys and values
    among them. Results, the stream between the layers, norms, gates, routers, states and the head
    are float32: with few roundings, which an engine can make at the same places, engine and learner
    stay close (docs/adr/0011).
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [N, inputs] to [N, outputs], float32 at least."""
        x = x.to(self.weight.dtype)
        if x.dtype != torch.bfloat16:
            return F.linear(x, self.weight)
        y: Tensor = _Product.apply(x, self.weight)  # type: ignore[no-untyped-call]
        return y


class _Product(torch.autograd.Function):
    """x W^T of bfloat16 operands; the gradient is rounded as another operand."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight.t())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        refuse_second_derivative()
        x, weight = ctx.saved_tensors
        grad = grad.to(x.dtype)
        return grad @ weight, grad.t() @ x


def product(a: Tensor, b: Tensor) -> Tensor:
    """Multiply [N, K] by [K, M], or [B, ...] both; of bfloat16 the result is unrounded float32."""
    if a.dtype != torch.bfloat16:
        return a @ b
    if a.is_cuda:
        return (torch.mm if a.dim() == 2 else torch.bmm)(a, b, out_dtype=torch.float32)
    return a.float() @ b.float()  # torch has no such product for CPUs; the operands are exact
