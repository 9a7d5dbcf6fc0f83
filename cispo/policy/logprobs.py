"""Log-probability and entropy of chosen tokens, without ever holding [T, V] logits."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from cispo.policy.precision import widened


def action_logprobs(
    hidden: Tensor,
    weight: Tensor,
    token_ids: Tensor,
    action_mask: Tensor,
    *,
    chunk: int,
    temperature: float = 1.0,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Score action tokens by the hidden state before each of them.

    Only positions that predict an action go through the head, `chunk` of them at once; the backward
    pass recomputes their logits.

    Args:
        hidden: [T, d] final hidden states of a packed row.
        weight: [V, d] of the head; multiplied in float32 at least, whatever its dtype.
        token_ids: [T] int64.
        action_mask: [T] bool; False on the first token.
        chunk: Positions whose logits exist at once.
        temperature: Divides the logits, > 0.
        bias: [V] of the head, where it has one.

    Returns:
        Log-probabilities and entropies in nats, both [T], 0.0 off the mask; the entropies carry no
        gradient. Float32, or float64 where hidden states and head are.

    Raises:
        ValueError: The first token is an action: nothing precedes it.
    """
    actions = action_mask.nonzero().view(-1)
    if len(actions) and int(actions[0]) == 0:
        raise ValueError("the first token of a row cannot be an action: nothing predicts it")
    targets = token_ids.index_select(0, actions)
    logprobs, entropy = _ActionLogprobs.apply(  # type: ignore[no-untyped-call]
        hidden, weight, bias, actions - 1, targets, chunk, 1.0 / temperature
    )
    places = (len(token_ids),)
    row = logprobs.new_zeros(places).index_put((actions,), logprobs)
    return row, entropy.new_zeros(places).index_put((actions,), entropy)


class ChunkedHead(nn.Module):
    """The output matrix [V, d]; a module of its own, so that sharded parameters arrive in time."""

    def __init__(self, hidden_size: int, vocab_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, hidden_size))

    def forward(
        self,
        hidden: Tensor,
        token_ids: Tensor,
        action_mask: Tensor,
        *,
        chunk: int,
        temperature: float,
    ) -> tuple[Tensor, Tensor]:
        """Score action tokens; see `action_logprobs`."""
        return action_logprobs(
            hidden, self.weight, token_ids, action_mask, chunk=chunk, temperature=temperature
        )


def _logits(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, positions: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    rows = widened(hidden.index_select(0, positions))
    logits = rows @ weight.t()
    if bias is not None:
        logits.add_(bias)
    return rows, logits if scale == 1.0 else logits.mul_(scale)


class _ActionLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        positions: Tensor,
        targets: Tensor,
        chunk: int,
        scale: float,
    ) -> tuple[Tensor, Tensor]:
        wide, wide_bias = widened(weight), None if bias is None else widened(bias)
        logprobs = wide.new_empty(len(positions))
        entropy = torch.empty_like(logprobs)
        for start in range(0, len(positions), chunk):
            part = slice(start, start + chunk)
            _, logits = _logits(hidden, wide, wide_bias, positions[part], scale)
            log_p = torch.log_softmax(logits, dim=-1)
            logprobs[part] = log_p.gather(1, targets[part].unsqueeze(1)).squeeze(1)
            entropy[part] = -torch.linalg.vecdot(torch.exp(log_p, out=logits), log_p)
        ctx.save_for_backward(hidden, weight, bias, positions, targets)
        ctx.chunk, ctx.scale = chunk, scale
        ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad: Tensor, _: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None, None, None, None, None]:
        hidden, weight, bias, positions, targets = ctx.saved_tensors
        wide, wide_bias = widened(weight), None if bias is None else widened(bias)
        grad_hidden = torch.zeros_like(hidden)
        grad_weight = torch.zeros_like(wide)
        grad_bias = None if wide_bias is None else torch.zeros_like(wide_bias)
        for start in range(0, len(positions), ctx.chunk):
            part = slice(start, start + ctx.chunk)
            rows, logits = _logits(hidden, wide, wide_bias, positions[part], ctx.scale)
            scaled = grad[part].unsqueeze(1) * ctx.scale
            # d log p(target) / d logits = onehot(target) - softmax
            grad_logits = torch.softmax(logits, dim=-1).mul_(-scaled)
            grad_logits.scatter_add_(1, targets[part].unsqueeze(1), scaled)
            grad_hidden.index_copy_(0, positions[part], (grad_logits @ wide).to(hidden.dtype))
            grad_weight.addmm_(grad_logits.t(), rows)
            if grad_bias is not None:
                grad_bias.add_(grad_logits.sum(0))
        grads = grad_weight.to(weight.dtype), None if bias is None else grad_bias
        return grad_hidden, *grads, None, None, None, None
