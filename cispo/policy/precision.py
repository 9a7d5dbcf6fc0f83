"""Where a computation needs float32 at least, whatever the model's dtype."""

import torch
from torch import Tensor


def widened(x: Tensor) -> Tensor:
    """The same in float32, if it is narrower; float64 stays float64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
