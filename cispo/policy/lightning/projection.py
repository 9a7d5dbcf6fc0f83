"""Matrix products in the weights' dtype on a residual stream that is at least float32."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Projection(nn.Linear):
    """W x without bias; x is rounded to the dtype of W, and so is the result.

    In a bfloat16 model these operands and results are all that is bfloat16. The stream between the
    layers, norms, gates, routers, states and the head are float32: rounding the stream itself would
    cost most of the agreement with an engine that computes in float32 (docs/adr/0011).
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map x [..., inputs] to [..., outputs]."""
        return F.linear(x.to(self.weight.dtype), self.weight)


def widened(x: Tensor) -> Tensor:
    """The same in float32, if it is narrower."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
