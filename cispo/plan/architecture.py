"""A model as its layers, and how many parameters it has (stdlib only)."""

from collections.abc import Iterator
from dataclasses import dataclass

from cispo.plan.layers import Attention, FeedForward, Latent, Lightning, Softmax


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Layers of one kind.

    Attributes:
        count: How many there are.
        attention: Their attention.
        feed_forward: Their feed-forward networks.
    """

    count: int
    attention: Attention
    feed_forward: FeedForward


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A causal language model.

    Attributes:
        name: For messages.
        vocab_size: V.
        hidden_size: d.
        blocks: Its layers by kind; their order changes no number here.
        is_tied: Whether the head is the embedding.
        quoted_active_parameters: What its authors call active; 0 where they name none.
    """

    name: str
    vocab_size: int
    hidden_size: int
    blocks: tuple[Block, ...]
    is_tied: bool = False
    quoted_active_parameters: float = 0.0

    @property
    def num_layers(self) -> int:
        """L."""
        return sum(block.count for block in self.blocks)

    @property
    def num_lightning_layers(self) -> int:
        """Those with a state instead of keys and values."""
        return sum(b.count for b in self.blocks if isinstance(b.attention, Lightning))

    @property
    def parameters(self) -> int:
        """All parameters: two norms a layer and one at the end included."""
        d = self.hidden_size
        layers = sum(block.count * self.layer_parameters(block) for block in self.blocks)
        return layers + d + self.vocab_size * d * (1 if self.is_tied else 2)

    @property
    def active_parameters(self) -> int:
        """Those that one token passes through, without embedding and head."""
        inactive = sum(
            block.count
            * (block.feed_forward.experts - block.feed_forward.chosen)
            * block.feed_forward.expert_parameters(self.hidden_size)
            for block in self.blocks
        )
        both = self.vocab_size * self.hidden_size * (1 if self.is_tied else 2)
        return self.parameters - inactive - both

    @property
    def active_parameters_with_head(self) -> int:
        """Those and the head's."""
        return self.active_parameters + self.vocab_size * self.hidden_size

    @property
    def router_parameters(self) -> int:
        """Weights of all routers, which stay float32."""
        return sum(
            block.count * block.feed_forward.router_parameters(self.hidden_size)
            for block in self.blocks
        )

    def layer_parameters(self, block: Block) -> int:
        """Parameters of one layer of a block."""
        d = self.hidden_size
        return block.attention.parameters(d) + block.feed_forward.parameters(d) + 2 * d

    def weight_bytes(self, number_bytes: int) -> int:
        """Bytes of a checkpoint or of an engine's copy; routers stay float32."""
        return number_bytes * self.parameters + (4 - number_bytes) * self.router_parameters

    def largest_layer_parameters(self) -> int:
        """Parameters of the layer, or of the embedding, that has most."""
        layers = max(self.layer_parameters(block) for block in self.blocks)
        return max(layers, self.vocab_size * self.hidden_size)

    def state_bytes(self) -> int:
        """Bytes of one sequence's lightning states, float32, whatever its length."""
        return 4 * sum(
            block.count * block.attention.state_numbers
            for block in self.blocks
            if isinstance(block.attention, Lightning)
        )

    def cache_bytes_per_token(self, number_bytes: int) -> int:
        """Bytes of one token's keys and values in all softmax layers."""
        return number_bytes * sum(
            block.count * attention.cached_numbers for block, attention in self.softmax_blocks()
        )

    def softmax_blocks(self) -> Iterator[tuple[Block, Softmax | Latent]]:
        """Blocks whose attention compares pairs of tokens, with it."""
        for block in self.blocks:
            if not isinstance(block.attention, Lightning):
                yield block, block.attention

    def matrices(self) -> int:
        """Weights that multiply one token in all layers and the head, without routers."""
        d = self.hidden_size
        return self.vocab_size * d + sum(
            block.count * (block.attention.matrices(d) + block.feed_forward.active_matrices(d))
            for block in self.blocks
        )
