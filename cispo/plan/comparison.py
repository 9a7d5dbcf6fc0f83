"""MiniMax-M1 against DeepSeek-R1 in five accountings, as the paper's claims need (stdlib only).

The paper says that M1 needs less than half of R1's operations at 64K tokens, and about a quarter at
100K. Lengths named with K are multiples of 1,024, except for 100K, which is 100,000.
"""

from dataclasses import dataclass

from cispo.plan.architecture import Architecture
from cispo.plan.flops import (
    ABSORBED,
    EXACT,
    FIGURE,
    QUOTED,
    UNHALVED,
    Accounting,
    cost,
    length_at,
)
from cispo.plan.published import M1, M1_AS_DRAWN, R1, R1_AS_DRAWN

K = 1024

_CASES: tuple[tuple[str, Architecture, Architecture, Accounting], ...] = (
    ("A: as figure 1 of the paper counts", M1_AS_DRAWN, R1_AS_DRAWN, FIGURE),
    ("B: exact, latent attention expanded", M1, R1, EXACT),
    ("C: exact, latent attention absorbed", M1, R1, ABSORBED),
    ("D: B without the causal half", M1, R1, UNHALVED),
    ("E: quoted active parameters, causal", M1, R1, QUOTED),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One accounting.

    Attributes:
        name: Its letter and what it counts.
        share_at_64k: M1's operations over R1's for 65,536 tokens.
        share_at_100k: The same for 100,000.
        half_at: Tokens from which on M1 needs at most half.
        quarter_at: Tokens from which on it needs at most a quarter.
        marginal_at_100k: The share of one more token after 100,000.
    """

    name: str
    share_at_64k: float
    share_at_100k: float
    half_at: float
    quarter_at: float
    marginal_at_100k: float


def compare() -> tuple[Comparison, ...]:
    """All five."""
    return tuple(_compare(*case) for case in _CASES)


def _compare(
    name: str, ours: Architecture, theirs: Architecture, accounting: Accounting
) -> Comparison:
    m1, r1 = cost(ours, accounting), cost(theirs, accounting)
    return Comparison(
        name=name,
        share_at_64k=m1.total(64 * K) / r1.total(64 * K),
        share_at_100k=m1.total(100_000) / r1.total(100_000),
        half_at=length_at(0.5, m1, r1),
        quarter_at=length_at(0.25, m1, r1),
        marginal_at_100k=m1.marginal(100_000) / r1.marginal(100_000),
    )
