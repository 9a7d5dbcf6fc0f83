"""PPO's clipped surrogate, the loss of GRPO and, with asymmetric bounds, of DAPO."""

import torch
from torch import Tensor

from cispo.objectives.ratio import log_ratio, on_actions


def ppo_clip_loss(
    logprobs: Tensor,
    behaviour_logprobs: Tensor,
    advantages: Tensor,
    token_weights: Tensor,
    *,
    ratio_max: float,
    ratio_min: float = 0.0,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Negative of the clipped surrogate: PPO, MiniMax-M1 (arXiv 2506.13585) eq. 1; DAPO eq. 8.

    J = sum_t a_t * min(r_t A_t, clip(r_t, ratio_min, ratio_max) A_t),  r_t = pi_t/mu_t

    A token with A > 0 and r > ratio_max, or A < 0 and r < ratio_min, has no gradient. GRPO is
    (0.8, 1.2) with sample-averaged token weights, DAPO is (0.8, 1.28) with token average.

    Args:
        logprobs: log pi of each token in nats, [B, T] or packed [T]; alone has a gradient.
        behaviour_logprobs: log mu of each token in nats, same shape.
        advantages: A of each token, same shape.
        token_weights: Share of each token in the loss, same shape; 0 exactly off the action mask.
        ratio_max: Upper bound of pi/mu itself, not an offset from one: 1.28 for DAPO.
        ratio_min: Lower bound of pi/mu itself: 0.8 for DAPO.
        cu_seqlens: Not needed here; part of the signature that all objectives share.

    Returns:
        The scalar loss, to be summed over micro-batches, and the clipped ratios, detached and 0 off
        the mask. A non-finite input on the mask makes the loss NaN.
    """
    is_action = token_weights != 0
    ratios = log_ratio(logprobs, behaviour_logprobs, is_action).exp()
    clipped = ratios.clamp(ratio_min, ratio_max)
    shares = on_actions(token_weights, is_action)
    values = on_actions(advantages, is_action)
    loss = -torch.sum(shares * torch.minimum(ratios * values, clipped * values))
    return loss, on_actions(clipped.detach(), is_action)
