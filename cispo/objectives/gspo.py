"""GSPO: the ratio and its clip belong to a whole sequence."""

import torch
from torch import Tensor

from cispo.objectives.ratio import log_ratio, on_actions


def gspo_loss(
    logprobs: Tensor,
    behaviour_logprobs: Tensor,
    advantages: Tensor,
    token_weights: Tensor,
    *,
    ratio_max: float,
    ratio_min: float = 0.0,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Negative of the GSPO objective (arXiv 2507.18071, eq. 5 and 7).

    J = sum_t a_t * min(s_i A_t, clip(s_i, ratio_min, ratio_max) A_t)
    s_i = (pi(o_i)/mu(o_i))^(1/|o_i|) = exp(mean over the actions of i of log pi_t/mu_t)

    The paper's average over samples is `sample` token weights, whose sum over a sequence is 1/G.

    Args:
        logprobs: log pi of each token in nats, [B, T] with one sequence a row, or packed [T] or
            [1, T] together with `cu_seqlens`; the only input with a gradient.
        behaviour_logprobs: log mu of each token in nats, same shape.
        advantages: A of each token, same shape, the same on all actions of a sequence.
        token_weights: Share of each token in the loss, same shape; 0 exactly off the action mask.
        ratio_max: Upper bound of s itself.
        ratio_min: Lower bound of s itself.
        cu_seqlens: [S+1] where the packed sequences begin and end; None where rows are sequences.

    Returns:
        The scalar loss, to be summed over micro-batches, and each token's clipped sequence ratio,
        detached and 0 off the mask. A non-finite input on the mask makes the loss NaN.
    """
    is_action = token_weights != 0
    differences = log_ratio(logprobs, behaviour_logprobs, is_action)
    sequence = _sequence_of_each_token(logprobs, cu_seqlens)
    num_sequences = logprobs.shape[0] if cu_seqlens is None else cu_seqlens.numel() - 1
    sums = differences.new_zeros(num_sequences).index_add(0, sequence, differences.flatten())
    counts = sums.new_zeros(num_sequences).index_add(0, sequence, is_action.flatten().to(sums))
    # A sequence without actions pads a rank's share: its sum is 0 and no token reads it.
    ratios = (sums / counts.clamp(min=1.0)).exp()[sequence].view(logprobs.shape)
    clipped = ratios.clamp(ratio_min, ratio_max)
    shares = on_actions(token_weights, is_action)
    values = on_actions(advantages, is_action)
    loss = -torch.sum(shares * torch.minimum(ratios * values, clipped * values))
    return loss, on_actions(clipped.detach(), is_action)


def _sequence_of_each_token(logprobs: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    if cu_seqlens is None:
        if logprobs.dim() != 2:
            raise ValueError(f"logprobs of shape {tuple(logprobs.shape)} need cu_seqlens")
        rows = torch.arange(logprobs.shape[0], device=logprobs.device)
        return rows.repeat_interleave(logprobs.shape[1])
    lengths = cu_seqlens.diff().long()
    return torch.repeat_interleave(
        torch.arange(lengths.numel(), device=lengths.device),
        lengths,
        output_size=logprobs.numel(),
    )
