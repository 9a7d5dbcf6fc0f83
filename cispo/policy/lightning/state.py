"""What a sequence carries from token to token while it is decoded."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cispo.policy.lightning.config import FULL, LINEAR, LightningConfig

KV_BLOCK = 64
"""Key-value buffers grow and are read in multiples of this many tokens: padding within a fixed
granularity leaves the bits of every row as they are."""


@dataclass(slots=True)
class DecodeState:
    """Recurrent states and key-value buffers of N rows.

    Attributes:
        linear: [L_linear, N, H, D, D] float32 states of lightning layers, keys by values.
        keys: [L_full, N, KVH, capacity, D] rotated keys of softmax layers.
        values: [L_full, N, KVH, capacity, D].
        lengths: [N] int64 tokens that each row has seen.
    """

    linear: Tensor
    keys: Tensor
    values: Tensor
    lengths: Tensor

    @classmethod
    def empty(
        cls,
        config: LightningConfig,
        rows: int,
        capacity: int = KV_BLOCK,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> "DecodeState":
        """Make the state of `rows` sequences that have seen nothing; room for `capacity` tokens."""
        D = config.head_dim
        linear = (config.layer_types.count(LINEAR), rows, config.num_attention_heads, D, D)
        room = _round_up(capacity)
        full = (config.layer_types.count(FULL), rows, config.num_key_value_heads, room, D)
        return cls(
            linear=torch.zeros(linear, dtype=torch.float32, device=device),
            keys=torch.zeros(full, dtype=dtype, device=device),
            values=torch.zeros(full, dtype=dtype, device=device),
            lengths=torch.zeros(rows, dtype=torch.long, device=device),
        )

    @property
    def num_rows(self) -> int:
        """N."""
        return len(self.lengths)

    @property
    def capacity(self) -> int:
        """Tokens that a row's key-value buffers hold before they grow."""
        return self.keys.shape[3]

    @property
    def nbytes(self) -> int:
        """Memory of all buffers."""
        return sum(t.nbytes for t in (self.linear, self.keys, self.values, self.lengths))

    def reserve(self, tokens: int) -> None:
        """Make room for `tokens` tokens a row; grows by half at least, so that growth is rare."""
        if tokens <= self.capacity or self.keys.shape[0] == 0:
            return
        room = _round_up(max(tokens, self.capacity * 3 // 2))
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = old.new_zeros(*old.shape[:3], room, old.shape[4])
            new[:, :, :, : old.shape[3]] = old
            setattr(self, name, new)

    def write(self, rows: Tensor, source: "DecodeState", source_rows: Tensor) -> None:
        """Copy rows of `source` over rows of this state, both [n] int64; source rows may repeat."""
        lengths = source.lengths[source_rows]
        self.linear[:, rows] = source.linear[:, source_rows]
        self.lengths[rows] = lengths
        if self.keys.shape[0] and len(rows):
            seen = int(lengths.max())
            self.reserve(seen)
            self.keys[:, rows, :, :seen] = source.keys[:, source_rows, :, :seen]
            self.values[:, rows, :, :seen] = source.values[:, source_rows, :, :seen]

    def take(self, rows: Tensor) -> "DecodeState":
        """Copy some rows, [n] int64, into a state of their own."""
        return DecodeState(
            linear=self.linear[:, rows],
            keys=self.keys[:, rows],
            values=self.values[:, rows],
            lengths=self.lengths[rows],
        )

    def reset(self, rows: Tensor) -> None:
        """Make rows, [n] int64, as if they had seen nothing."""
        self.linear[:, rows] = 0.0
        self.lengths[rows] = 0


def _round_up(tokens: int) -> int:
    return max(1, (tokens + KV_BLOCK - 1) // KV_BLOCK) * KV_BLOCK
