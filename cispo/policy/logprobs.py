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


class _ActionLogprobs(torch.autograd.Function):
    """Works through the positions in parts, always in the same room for logits."""

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
        head = _Head(weight, bias, scale)
        chosen = head.weight.new_empty(len(positions))
        entropy, top, total = (torch.empty_like(chosen) for _ in range(3))
        room, exp_room = head.room(positions, chunk), head.room(positions, chunk)
        for part in _parts(positions, chunk):
            _, logits = head(hidden, positions[part], room)
            torch.amax(logits, dim=-1, out=top[part])
            logits.sub_(top[part].unsqueeze(1))
            chosen[part] = logits.gather(1, targets[part].unsqueeze(1)).squeeze(1)
            exps = torch.exp(logits, out=exp_room[: len(logits)])
            torch.sum(exps, dim=-1, out=total[part])
            torch.sum(exps.mul_(logits), dim=-1, out=entropy[part])
        ctx.save_for_backward(hidden, weight, bias, positions, targets, top, total)
        ctx.chunk, ctx.scale = chunk, scale
        log_total = total.log()
        # H = -sum p log p with log p = logit - top - log(total)
        entropy = log_total - entropy.div_(total)
        ctx.mark_non_differentiable(entropy)
        return chosen - log_total, entropy

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad: Tensor, _: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None, None, None, None, None]:
        hidden, weight, bias, positions, targets, top, total = ctx.saved_tensors
        head = _Head(weight, bias, ctx.scale)
        grad_hidden = torch.zeros_like(hidden)
        grad_weight = torch.zeros_like(head.weight)
        grad_bias = None if head.bias is None else torch.zeros_like(head.bias)
        room = head.room(positions, ctx.chunk)
        scaled = grad * ctx.scale
        for part in _parts(positions, ctx.chunk):
            rows, logits = head(hidden, positions[part], room)
            # d log p(target) / d logits = onehot(target) - softmax
            exps = logits.sub_(top[part].unsqueeze(1)).exp_()
            grad_logits = exps.mul_((-scaled[part] / total[part]).unsqueeze(1))
            grad_logits.scatter_add_(1, targets[part].unsqueeze(1), scaled[part].unsqueeze(1))
            grad_rows = grad_logits @ head.weight
            grad_hidden.index_copy_(0, positions[part], grad_rows.to(hidden.dtype))
            grad_weight.addmm_(grad_logits.t(), rows)
            if grad_bias is not None:
                grad_bias.add_(grad_logits.sum(0))
        grads = grad_weight.to(weight.dtype), None if bias is None else grad_bias
        return grad_hidden, *grads, None, None, None, None


class _Head:
    def __init__(self, weight: Tensor, bias: Tensor | None, scale: float) -> None:
        self.weight = widened(weight)
        self.bias = None if bias is None else widened(bias)
        self._scale = scale

    def room(self, positions: Tensor, chunk: int) -> Tensor:
        """Room for the logits of a part: [min(chunk, N), V]."""
        return self.weight.new_empty(min(chunk, len(positions)), len(self.weight))

    def __call__(self, hidden: Tensor, positions: Tensor, room: Tensor) -> tuple[Tensor, Tensor]:
        """Return the widened hidden states at n positions, and their scaled logits, in `room`."""
        rows = widened(hidden.index_select(0, positions))
        logits = torch.mm(rows, self.weight.t(), out=room[: len(rows)])
        if self.bias is not None:
            logits.add_(self.bias)
        return rows, logits if self._scale == 1.0 else logits.mul_(self._scale)


def _parts(positions: Tensor, chunk: int) -> list[slice]:
    return [slice(start, start + chunk) for start in range(0, len(positions), chunk)]
