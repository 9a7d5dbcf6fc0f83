"""Log-probabilities of a shared row: each action token is scored where its predecessor is."""

from itertools import pairwise

import torch
from torch import Tensor

from cispo.policy.lightning.exchange import joined
from cispo.policy.lightning.shared_row import SharedRow
from cispo.policy.logprobs import ChunkedHead


def score_row(
    head: ChunkedHead,
    row: SharedRow,
    hidden: Tensor,
    token_ids: Tensor,
    action_mask: Tensor,
    *,
    chunk: int,
    temperature: float,
) -> tuple[Tensor, Tensor]:
    """Score the action tokens of the whole row, each of them on one rank, and tell all ranks.

    The first token of a piece is scored by the rank to the left, which has the state before it.

    Args:
        head: The output matrix.
        row: What is shared.
        hidden: [n, d] final hidden states of this rank's piece.
        token_ids: [T] of the row.
        action_mask: [T] of the row.
        chunk: Positions whose logits exist at once.
        temperature: Divides the logits.

    Returns:
        Log-probabilities and entropies of the row, both [T]; see `action_logprobs`.

    Raises:
        ValueError: The first token of the row is an action; raised on all ranks.
    """
    if bool(action_mask[:1].any()):
        raise ValueError("the first token of a row cannot be an action: nothing predicts it")
    T = len(token_ids)
    seen = slice(row.tokens.start, row.tokens.stop + 1)  # the last state predicts one token more
    mask = action_mask[seen].clone()
    mask[:1] = False
    scores = head(hidden, token_ids[seen], mask, chunk=chunk, temperature=temperature)
    ends = [min(cut + 1, T) for cut in row.cuts]
    sizes = [after - before for before, after in pairwise(ends)]
    columns = torch.stack(scores, dim=1)
    logprobs, entropy = joined(columns[1:], sizes, row.ranks).unbind(1)
    return _after_first(logprobs), _after_first(entropy).detach()


def _after_first(values: Tensor) -> Tensor:
    """Put 0.0, the score of a row's first token, before those of the others."""
    return torch.cat((values.new_zeros(1), values))
