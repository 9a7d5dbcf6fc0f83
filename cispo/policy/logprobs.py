"""Log-probability and entropy of chosen tokens, without ever holding [T, V] logits."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from cispo.policy.lightning.kernels import runs_native
from cispo.policy.lightning.native.rowwise import native_scores, native_scores_backward
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
    kernels: str = "auto",
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
        kernels: What reads the logits; see `resolve_kernels`.

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
        hidden, weight, bias, actions - 1, targets, chunk, 1.0 / temperature, kernels
    )
    places = (len(token_ids),)
    row = logprobs.new_zeros(places).index_put((actions,), logprobs)
    return row, entropy.new_zeros(places).index_put((actions,), entropy)


class ChunkedHead(nn.Module):
    """The output matrix [V, d]; a module of its own, so that sharded parameters arrive in time."""

    def __init__(self, hidden_size: int, vocab_size: int, *, kernels: str = "auto") -> None:
        super().__init__()
        self.kernels = kernels
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
            hidden,
            self.weight,
            token_ids,
            action_mask,
            chunk=chunk,
            temperature=temperature,
            kernels=self.kernels,
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
        kernels: str,
    ) -> tuple[Tensor, Tensor]:
        head = _Head(weight, bias, scale)
        top = head.weight.new_empty(len(positions))
        total, chosen, entropy = (torch.empty_like(top) for _ in range(3))
        ctx.is_native = runs_native(kernels, head.weight)
        scores = native_scores if ctx.is_native else _scores
        room = head.room(positions, chunk)
        for part in _parts(positions, chunk):
            _, logits = head(hidden, positions[part], room)
            scores(
                logits,
                targets[part],
                top=top[part],
                total=total[part],
                chosen=chosen[part],
                entropy=entropy[part],
            )
        ctx.save_for_backward(hidden, weight, bias, positions, targets, top, total)
        ctx.chunk, ctx.scale = chunk, scale
        ctx.mark_non_differentiable(entropy)
        return chosen.sub_(total.log()), entropy

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad: Tensor, _: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None, None, None, None, None, None]:
        hidden, weight, bias, positions, targets, top, total = ctx.saved_tensors
        head = _Head(weight, bias, ctx.scale)
        grad_hidden = torch.zeros_like(hidden)
        grad_weight = torch.zeros_like(head.weight)
        grad_bias = None if head.bias is None else torch.zeros_like(head.bias)
        scores_backward = native_scores_backward if ctx.is_native else _scores_backward
        room = head.room(positions, ctx.chunk)
        scaled = grad * ctx.scale
        for part in _parts(positions, ctx.chunk):
            rows, logits = head(hidden, positions[part], room)
            scores_backward(
                logits, targets[part], top=top[part], total=total[part], grad=scaled[part]
            )
            grad_rows = logits @ head.weight
            grad_hidden.index_copy_(0, positions[part], grad_rows.to(hidden.dtype))
            grad_weight.addmm_(logits.t(), rows)
            if grad_bias is not None:
                grad_bias.add_(logits.sum(0))
        grads = grad_weight.to(weight.dtype), None if bias is None else grad_bias
        return grad_hidden, *grads, None, None, None, None, None


def _scores(
    logits: Tensor, targets: Tensor, *, top: Tensor, total: Tensor, chosen: Tensor, entropy: Tensor
) -> None:
    """The same as `native_scores`; the logits are no longer needed."""
    torch.amax(logits, dim=-1, out=top)
    logits.sub_(top.unsqueeze(1))
    chosen.copy_(logits.gather(1, targets.unsqueeze(1)).squeeze(1))
    exps = logits.exp()
    torch.sum(exps, dim=-1, out=total)
    # H = -sum p log p with p = exp / total
    torch.sum(exps.mul_(logits), dim=-1, out=entropy)
    entropy.div_(total).neg_().add_(total.log())


def _scores_backward(
    logits: Tensor, targets: Tensor, *, top: Tensor, total: Tensor, grad: Tensor
) -> None:
    """The same as `native_scores_backward`."""
    # d log p(target) / d logits = onehot(target) - softmax
    logits.sub_(top.unsqueeze(1)).exp_().mul_((-grad / total).unsqueeze(1))
    logits.scatter_add_(1, targets.unsqueeze(1), grad.unsqueeze(1))


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
