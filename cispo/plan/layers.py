"""The parts of a layer: what they weigh, compute for a token, and remember of it (stdlib only).

A product with a matrix costs two operations a weight. Softmax attention over a sequence of L tokens
has L^2 pairs of tokens, of which a causal one needs half.
"""

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True, kw_only=True)
class Lightning:
    """Linear attention with a state of D x D numbers a head, a gate and an inner norm.

    Attributes:
        heads: H.
        head_dim: D.
    """

    heads: int
    head_dim: int

    @property
    def width(self) -> int:
        """H D."""
        return self.heads * self.head_dim

    @property
    def state_numbers(self) -> int:
        """Numbers that a sequence carries along, whatever its length; kept in float32."""
        return self.heads * self.head_dim**2

    def matrices(self, hidden: int) -> int:
        """Weights that multiply a token of width `hidden`: q, k, v, gate and output."""
        return 5 * hidden * self.width

    def parameters(self, hidden: int) -> int:
        """Those and the inner norm's."""
        return self.matrices(hidden) + self.width


@dataclass(frozen=True, slots=True, kw_only=True)
class Softmax:
    """Softmax attention with grouped keys and values.

    Attributes:
        heads: H.
        kv_heads: Heads of keys and values.
        head_dim: D.
        has_bias: Whether queries, keys and values have biases, as in Qwen2.
        has_head_norms: Whether queries and keys have a norm each, as in Qwen3.
    """

    heads: int
    kv_heads: int
    head_dim: int
    has_bias: bool = False
    has_head_norms: bool = False

    @property
    def width(self) -> int:
        """H D."""
        return self.heads * self.head_dim

    @property
    def cached_numbers(self) -> int:
        """Numbers kept of every token: its keys and values."""
        return 2 * self.kv_heads * self.head_dim

    def matrices(self, hidden: int) -> int:
        """Weights that multiply a token of width `hidden`."""
        return 2 * hidden * self.width + hidden * self.cached_numbers

    def parameters(self, hidden: int) -> int:
        """Those, biases and norms."""
        biases = (self.width + self.cached_numbers) * self.has_bias
        return self.matrices(hidden) + biases + 2 * self.head_dim * self.has_head_norms

    def key_operations(self, *, absorbed: bool) -> int:
        """Operations of a pair of tokens for its score; nothing to absorb here."""
        return 2 * self.width

    def value_operations(self, *, absorbed: bool) -> int:
        """Operations of a pair of tokens for the weighted value."""
        return 2 * self.width


@dataclass(frozen=True, slots=True, kw_only=True)
class Latent:
    """Multi-head latent attention of DeepSeek: keys and values are expanded from a latent vector.

    Absorbed, the expansion is applied to queries and outputs instead, so that a pair of tokens
    costs the latent's width: what decoding kernels do.

    Attributes:
        heads: H.
        query_rank: Width of the queries' latent vector.
        kv_rank: Width of the latent vector of keys and values.
        nope_dim: Of a head's query and key, the part without rotation.
        rope_dim: The rotated part, which all heads' keys share.
        value_dim: Of a head's value.
    """

    heads: int
    query_rank: int
    kv_rank: int
    nope_dim: int
    rope_dim: int
    value_dim: int

    @property
    def width(self) -> int:
        """Of all heads' values."""
        return self.heads * self.value_dim

    @property
    def cached_numbers(self) -> int:
        """Numbers kept of every token."""
        return self.kv_rank + self.rope_dim

    def matrices(self, hidden: int) -> int:
        """Weights that multiply a token; as many where the expansion is absorbed."""
        queries = hidden * self.query_rank
        queries += self.query_rank * self.heads * (self.nope_dim + self.rope_dim)
        keys = hidden * self.cached_numbers
        keys += self.kv_rank * self.heads * (self.nope_dim + self.value_dim)
        return queries + keys + self.width * hidden

    def parameters(self, hidden: int) -> int:
        """Those and the norms of both latent vectors."""
        return self.matrices(hidden) + self.query_rank + self.kv_rank

    def key_operations(self, *, absorbed: bool) -> int:
        """Operations of a pair of tokens for its score."""
        return 2 * self.heads * ((self.kv_rank if absorbed else self.nope_dim) + self.rope_dim)

    def value_operations(self, *, absorbed: bool) -> int:
        """Operations of a pair of tokens for the weighted value."""
        return 2 * self.heads * (self.kv_rank if absorbed else self.value_dim)


Attention: TypeAlias = Lightning | Softmax | Latent


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedForward:
    """Gated feed-forward networks w2(silu(w1 x) * w3 x), one or several behind a router.

    Attributes:
        width: Inside one of them.
        experts: Of which a token is sent to some; 1 is a plain network.
        chosen: Experts that a token passes through.
        shared: Networks of the same width that every token passes through besides.
        has_correction: Whether the router has a bias for each expert, as in DeepSeek-V3.
    """

    width: int
    experts: int = 1
    chosen: int = 1
    shared: int = 0
    has_correction: bool = False

    @property
    def has_router(self) -> bool:
        """Whether there is a choice."""
        return self.experts > 1

    def expert_parameters(self, hidden: int) -> int:
        """Weights of one expert."""
        return 3 * hidden * self.width

    def router_parameters(self, hidden: int) -> int:
        """Weights of the router's matrix."""
        return hidden * self.experts * self.has_router

    def parameters(self, hidden: int) -> int:
        """Weights of all experts and the router."""
        experts = (self.experts + self.shared) * self.expert_parameters(hidden)
        return experts + self.router_parameters(hidden) + self.experts * self.has_correction

    def active_matrices(self, hidden: int) -> int:
        """Weights that multiply one token, without the router's."""
        return (self.chosen + self.shared) * self.expert_parameters(hidden)

    def touched_experts(self, tokens: int) -> float:
        """Experts that a step with so many tokens reads, on average over evenly spread choices."""
        missed = (1 - self.chosen / self.experts) ** tokens
        return self.shared + self.experts * (1 - missed)
