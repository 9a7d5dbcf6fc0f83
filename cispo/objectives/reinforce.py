"""REINFORCE with an off-policy correction."""

import math

import torch
from torch import Tensor

from cispo.objectives.ratio import log_ratio, on_actions


def reinforce_loss(
    logprobs: Tensor,
    behaviour_logprobs: Tensor,
    advantages: Tensor,
    token_weights: Tensor,
    *,
    ratio_max: float = math.inf,
    ratio_min: float = 0.0,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Negative of the corrected REINFORCE objective, MiniMax-M1 (arXiv 2506.13585), eq. 3.

    J = sum_t a_t * sg(pi_t/mu_t) * A_t * log pi_t, with a_t = 1/|o_i| in the paper

    Bounds truncate the weight. `ratio_max=inf`, the default, is the equation as printed;
    `ratio_min=ratio_max=1` is plain REINFORCE without a correction; a finite `ratio_max` with
    prompt-averaged token weights is CISPO.

    Args:
        logprobs: log pi of each token in nats, [B, T] or packed [T]; alone has a gradient.
        behaviour_logprobs: log mu of each token in nats, same shape.
        advantages: A of each token, same shape.
        token_weights: Share of each token in the loss, same shape; 0 exactly off the action mask.
        ratio_max: Upper bound of pi/mu itself.
        ratio_min: Lower bound of pi/mu itself.
        cu_seqlens: Not needed here; part of the signature that all objectives share.

    Returns:
        The scalar loss, to be summed over micro-batches, and the bounded ratios, detached and 0 off
        the mask. A non-finite input on the mask makes the loss NaN.
    """
    is_action = token_weights != 0
    ratios = log_ratio(logprobs.detach(), behaviour_logprobs, is_action).exp()
    weights = on_actions(ratios.clamp(ratio_min, ratio_max), is_action)
    coefficients = on_actions(token_weights * weights * advantages, is_action)
    return -torch.sum(coefficients * on_actions(logprobs, is_action)), weights
