"""Root-mean-square norms, computed in float32."""

from typing import Any

import torch
from torch import Tensor, nn

from cispo.policy.lightning.kernels import runs_native
from cispo.policy.lightning.native.rowwise import native_norm
from cispo.policy.lightning.second_derivative import refuse_second_derivative


def inverse_rms(x: Tensor, eps: float) -> Tensor:
    """1 / sqrt(mean(x^2) + eps) over the last dimension, [..., 1]."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    inverse: Tensor = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    return inverse


def _normalise(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Divide x by its root mean square, in float32 at least; return that and the inverse of it."""
    wide = x.float() if x.dtype == torch.bfloat16 else x
    inverse = inverse_rms(wide, eps)
    return wide * inverse, inverse


class _RmsNorm(torch.autograd.Function):
    """Autograd's own backward pass of these few operations reads and writes twice as much."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        normed, inverse = _normalise(x, eps)
        ctx.save_for_backward(normed, inverse, weight)
        ctx.dtype = x.dtype
        return (normed * weight).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        refuse_second_derivative()
        normed, inverse, weight = ctx.saved_tensors
        width = normed.shape[-1]
        grad = grad.to(normed.dtype)
        product = (grad * normed).view(-1, width)
        grad_weight = product.sum(0).to(weight.dtype)
        mean = torch.mv(product, weight.to(normed.dtype)).view(inverse.shape).div_(-width)
        grad_x = grad * weight
        grad_x = grad_x.addcmul_(normed, mean).mul_(inverse)
        return grad_x.to(ctx.dtype), grad_weight, None


class RmsNorm(nn.Module):
    """x / rms(x) * weight."""

    def __init__(self, width: int, *, eps: float, kernels: str = "auto") -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps, self.kernels = eps, kernels

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension of x [..., width]."""
        if runs_native(self.kernels, x):
            return native_norm(x, None, self.weight, self.eps)
        if not torch.is_grad_enabled():  # the same arithmetic without autograd's overhead
            return _normalise(x, self.eps)[0].mul_(self.weight).to(x.dtype)
        normed: Tensor = _RmsNorm.apply(  # type: ignore[no-untyped-call]
            x, self.weight, self.eps
        )
        return normed


class _GatedRmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, logits: Tensor, weight: Tensor, eps: float) -> Tensor:
        normed, inverse = _normalise(x, eps)
        gate = torch.sigmoid(logits.to(normed.dtype))
        ctx.save_for_backward(normed, inverse, gate, weight)
        ctx.dtypes = x.dtype, logits.dtype
        return (normed * weight).mul_(gate).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        refuse_second_derivative()
        normed, inverse, gate, weight = ctx.saved_tensors
        width = normed.shape[-1]
        grad = grad.to(normed.dtype)
        grad_gated = grad * gate
        product = (grad_gated * normed).view(-1, width)
        grad_weight = product.sum(0).to(weight.dtype)
        mean = torch.mv(product, weight.to(normed.dtype)).view(inverse.shape).div_(-width)
        # sigmoid' = gate (1 - gate), and gate is already in the product
        grad_logits = product.view_as(normed).mul_(weight)
        grad_logits = grad_logits.addcmul_(grad_logits, gate, value=-1.0)
        grad_x = grad_gated.mul_(weight).addcmul_(normed, mean).mul_(inverse)
        of_x, of_logits = ctx.dtypes
        return grad_x.to(of_x), grad_logits.to(of_logits), grad_weight, None


class GatedRmsNorm(nn.Module):
    """sigmoid(logits) * x / rms(x) * weight."""

    def __init__(self, width: int, *, eps: float, kernels: str = "auto") -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps, self.kernels = eps, kernels

    def forward(self, x: Tensor, logits: Tensor) -> Tensor:
        """Normalise and gate x [..., width] by logits of the same shape."""
        if runs_native(self.kernels, x) and logits.dtype == x.dtype:
            return native_norm(x, logits, self.weight, self.eps)
        if not torch.is_grad_enabled():
            normed = _normalise(x, self.eps)[0]
            gate = torch.sigmoid(logits.to(normed.dtype))
            return normed.mul_(self.weight).mul_(gate).to(x.dtype)
        gated: Tensor = _GatedRmsNorm.apply(  # type: ignore[no-untyped-call]
            x, logits, self.weight, self.eps
        )
        return gated


class NormRows:
    """Either norm without gate and gradients, as weight sqrt(d) x / hypot(|x|, sqrt(d eps)).

    Fewer operations than the same by squares, which is what counts for a few rows. Weights are read
    once.
    """

    def __init__(self, norm: RmsNorm | GatedRmsNorm) -> None:
        width = len(norm.weight)
        self._scale = norm.weight.detach().float() * width**0.5
        self._floor = self._scale.new_tensor((width * norm.eps) ** 0.5)

    def __call__(self, x: Tensor) -> Tensor:
        """Normalise rows x [N, d] float32."""
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        normed: Tensor = (x / length.hypot_(self._floor)).mul_(self._scale)
        return normed
