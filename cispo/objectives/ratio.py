"""The ratio pi/mu on action tokens."""

import torch
from torch import Tensor


def log_ratio(logprobs: Tensor, behaviour_logprobs: Tensor, is_action: Tensor) -> Tensor:
    """log(pi/mu) in nats where `is_action`, and exactly 0 without a gradient elsewhere.

    Whatever stands off the mask is never read. On the mask an infinite value becomes NaN, because
    the clip that follows in every objective would turn an infinite ratio into a harmless bound.
    """
    difference = torch.where(is_action, logprobs - behaviour_logprobs, 0.0)
    return difference + difference.detach() * 0.0


def on_actions(values: Tensor, is_action: Tensor) -> Tensor:
    """The values where `is_action`, and exactly 0 without a gradient elsewhere."""
    return torch.where(is_action, values, 0.0)
