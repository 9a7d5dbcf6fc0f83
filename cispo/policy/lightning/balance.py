"""How evenly routers spread tokens over experts: sums that ranks can add, and the loss of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cispo.policy.lightning.exchange import summed
from cispo.policy.lightning.experts import Routing
from cispo.policy.ranks import Ranks


class Balance(NamedTuple):
    """Where routers sent N tokens, as sums over the tokens; of one layer or of L stacked ones.

    Attributes:
        counts: [..., E] int64 tokens that each expert got; a token counts once for each of its k.
        probabilities: [..., E] the router's probabilities.
        entropy: [...] entropies of these probabilities, in nats; N log E where it is undecided.
    """

    counts: Tensor
    probabilities: Tensor
    entropy: Tensor


def balance_of(routing: Routing) -> Balance:
    """Add up what one router did; entropies have no gradient."""
    entropy = torch.special.entr(routing.probabilities.detach()).sum()
    return Balance(routing.counts, routing.probabilities.sum(0), entropy)


def stacked(balances: Sequence[Balance]) -> Balance:
    """The balances of single layers as one, layers first."""
    return Balance(*(torch.stack(column) for column in zip(*balances, strict=True)))


def over_ranks(balance: Balance, ranks: Ranks) -> Balance:
    """The stacked balances of all ranks together, in one collective."""
    width = balance.counts.shape[-1]
    columns = (balance.counts, balance.probabilities, balance.entropy.unsqueeze(-1))
    # counts are exact in float64
    total = summed(torch.cat([column.double() for column in columns], dim=-1), ranks)
    counts, probabilities, entropy = total.split_with_sizes((width, width, 1), dim=-1)
    dtype = balance.probabilities.dtype
    return Balance(
        counts.detach().long(), probabilities.to(dtype), entropy.detach().squeeze(-1).to(dtype)
    )


def balance_loss(balance: Balance, *, num_tokens: int) -> Tensor:
    """GShard's balance loss E sum_e f_e m_e: 1 where experts share evenly, E where one gets all.

    f_e is the share of assignments that expert e received, m_e its mean probability, both over the
    tokens of one packed row, prompts included. A product of means is not the mean of products, so
    the loss of an update depends on which sequences share a row, as everywhere in the field where
    it is taken per micro-batch. It is well defined all the same: rows are a function of the samples
    and of `micro_batch_tokens`, and rows count by their tokens (`cispo.learner.accumulate`).

    Args:
        balance: Over all tokens of the row, of one layer or of several.
        num_tokens: N.

    Returns:
        [...], a loss a layer.
    """
    counts = balance.counts
    shares = counts / counts.sum(-1, keepdim=True)
    return counts.shape[-1] * (shares * balance.probabilities).sum(-1) / num_tokens
