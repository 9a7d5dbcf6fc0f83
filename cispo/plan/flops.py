"""Operations of a model by length: F(L) = a L + b L^2, in five accountings (stdlib only).

The paper's figure 1 compares MiniMax-M1 with DeepSeek-R1. `FIGURE` is what that figure computes;
`EXACT` is what the released models do, and what plans use. The others show how much the answer
depends on what is counted.
"""

from dataclasses import dataclass

from cispo.plan.architecture import Architecture
from cispo.plan.layers import Lightning


@dataclass(frozen=True, slots=True, kw_only=True)
class Accounting:
    """What is counted, and how.

    Attributes:
        halves_scores: Half of all pairs of tokens need a score, since attention is causal.
        halves_values: Half of them need a value.
        absorbs_latent: Latent attention works on the latent vectors, as decoding kernels do.
        counts_routers: Routers cost something.
        has_full_state: A lightning layer updates and reads one (H D) x (H D) state, instead of H
            states of D x D.
        trusts_quoted_size: Matrices are the authors' number of active parameters.
    """

    halves_scores: bool = True
    halves_values: bool = True
    absorbs_latent: bool = False
    counts_routers: bool = True
    has_full_state: bool = False
    trusts_quoted_size: bool = False


FIGURE = Accounting(halves_values=False, counts_routers=False, has_full_state=True)
"""A: the paper's figure 1; give it the architectures `*_AS_DRAWN`."""

EXACT = Accounting()
"""B: each operation of the released model once, latent attention expanded."""

ABSORBED = Accounting(absorbs_latent=True)
"""C: the same with latent attention absorbed."""

UNHALVED = Accounting(halves_scores=False, halves_values=False)
"""D: B without the causal half."""

QUOTED = Accounting(trusts_quoted_size=True)
"""E: twice the quoted active parameters, and attention as in B."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Operations of a forward pass, F(L) = a L + b L^2.

    Attributes:
        per_token: a.
        per_square: b.
    """

    per_token: float
    per_square: float

    def total(self, tokens: float) -> float:
        """F of so many tokens."""
        return self.per_token * tokens + self.per_square * tokens**2

    def span(self, start: float, end: float) -> float:
        """Operations of the tokens from position `start` to `end`."""
        return self.total(end) - self.total(start)

    def marginal(self, tokens: float) -> float:
        """Operations of one more token after so many."""
        return self.per_token + 2 * self.per_square * tokens


def cost(architecture: Architecture, accounting: Accounting = EXACT) -> Cost:
    """Count the operations of a model's forward pass, two a multiply-add.

    Raises:
        ValueError: The accounting wants a quoted size, and the architecture has none.
    """
    if accounting.trusts_quoted_size:
        if architecture.quoted_active_parameters == 0:
            raise ValueError(f"{architecture.name} has no quoted active parameters")
        per_token = 2 * architecture.quoted_active_parameters
    else:
        per_token = 2.0 * architecture.matrices()
        if accounting.counts_routers:
            per_token += 2 * architecture.router_parameters
    for block in architecture.blocks:
        if isinstance(block.attention, Lightning):
            per_token += block.count * _state_operations(block.attention, accounting)
    per_square = 0.0
    for block, attention in architecture.softmax_blocks():
        scores = attention.key_operations(absorbed=accounting.absorbs_latent)
        values = attention.value_operations(absorbed=accounting.absorbs_latent)
        per_square += block.count * (
            scores / (2 if accounting.halves_scores else 1)
            + values / (2 if accounting.halves_values else 1)
        )
    return Cost(per_token=per_token, per_square=per_square)


def length_at(share: float, ours: Cost, theirs: Cost) -> float:
    """Tokens from which on we cost at most this share of what they cost.

    Solves a + b L = share (a' + b' L).

    Raises:
        ValueError: We never do, or always.
    """
    slope = share * theirs.per_square - ours.per_square
    start = ours.per_token - share * theirs.per_token
    if slope <= 0 or start <= 0:
        raise ValueError(f"share {share} is never crossed from above")
    return start / slope


def _state_operations(attention: Lightning, accounting: Accounting) -> int:
    if accounting.has_full_state:
        return 2 * attention.width**2
    return 4 * attention.state_numbers  # add k v^T to the state, and read it with q
