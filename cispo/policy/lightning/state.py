"""What a sequence carries from token to token while it is decoded."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from cispo.policy.lightning.config import FULL, LINEAR, LightningConfig
from cispo.policy.lightning.pages import PAGE as PAGE
from cispo.policy.lightning.pages import PageAllocator


@dataclass(slots=True, eq=False)
class DecodeState:
    """Recurrent states of R rows, and the pages that hold their keys and values.

    Rows of states that use the same allocator can share pages: a page is written only behind the
    tokens that its owners have seen, and only by a row that owns it alone or began it.

    Attributes:
        linear: [L_linear, R, H, D, D] float32 states of lightning layers, keys by values.
        page_table: [R, C] int32 page of the row's tokens c * PAGE and following; 0 is none.
        lengths: [R] int64 tokens that each row has seen.
        allocator: Owns the pages of softmax layers.
    """

    linear: Tensor
    page_table: Tensor
    lengths: Tensor
    allocator: PageAllocator

    @classmethod
    def empty(
        cls,
        config: LightningConfig,
        rows: int,
        *,
        allocator: PageAllocator | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> DecodeState:
        """Make the state of `rows` sequences that have seen nothing.

        Args:
            config: Of the model.
            rows: R.
            allocator: Whose pages to use; None makes one.
            dtype: Of keys and values in a new allocator.
            device: Of everything.
        """
        D = config.head_dim
        linear = (config.layer_types.count(LINEAR), rows, config.num_attention_heads, D, D)
        if allocator is None:
            shape = (config.layer_types.count(FULL), config.num_key_value_heads, D)
            allocator = PageAllocator(shape, dtype=dtype, device=device)
        return cls(
            linear=torch.zeros(linear, dtype=torch.float32, device=device),
            page_table=torch.zeros(rows, 1, dtype=torch.int32, device=device),
            lengths=torch.zeros(rows, dtype=torch.long, device=device),
            allocator=allocator,
        )

    @property
    def num_rows(self) -> int:
        """R."""
        return len(self.lengths)

    @property
    def pages(self) -> Tensor:
        """The allocator's [L_full, P, 2, KVH, PAGE, D]; another tensor after `reserve`."""
        return self.allocator.pages

    @property
    def num_pages(self) -> int:
        """Pages that the rows refer to, shared ones once a row."""
        return int(self.page_table.count_nonzero())

    @property
    def nbytes(self) -> int:
        """Memory of the rows, with the pages that they refer to, shared ones once a row."""
        rows = self.linear.nbytes + self.page_table.nbytes + self.lengths.nbytes
        return rows + self.num_pages * self.allocator.page_bytes

    def reserve(self, count: int, tokens: int | Tensor = 1) -> None:
        """Give the first `count` rows pages for `tokens` more tokens each, an int or [count]."""
        if self.allocator.num_layers == 0:
            return
        seen = self.lengths[:count]
        if isinstance(tokens, int) and tokens == 1 and bool((seen & (PAGE - 1)).all()):
            return  # no row begins a page
        first, last = page_count(seen), page_count(seen + tokens)
        rows = (first < last).nonzero()[:, 0]
        if len(rows) == 0:
            return
        first, last = first[rows, None], last[rows, None]
        self._widen(int(last.max()))
        column = torch.arange(self.page_table.shape[1], device=self.lengths.device)
        missing = (column >= first) & (column < last) & (self.page_table[rows] == 0)
        row, place = missing.nonzero().unbind(1)
        self.page_table[rows[row], place] = self.allocator.allocate(len(row))

    def write(self, rows: Tensor, source: DecodeState, source_rows: Tensor) -> None:
        """Make rows continue rows of another state, both [n] int64; source rows may repeat.

        With the same allocator full pages are shared and the last, partial one is copied.
        """
        self.linear[:, rows] = source.linear[:, source_rows]
        self._release(rows)
        lengths = source.lengths[source_rows]
        self.lengths[rows] = lengths
        if self.allocator.num_layers == 0 or len(rows) == 0:
            return
        width = max(1, int(page_count(lengths).max()))
        self._widen(width)
        column = torch.arange(width, device=lengths.device)
        is_used = column < page_count(lengths)[:, None]
        table = torch.where(is_used, source.page_table[source_rows, :width], 0)
        if source.allocator is self.allocator:
            is_shared = column < (lengths // PAGE)[:, None]
            self.allocator.retain(table[is_shared])
            is_copied = is_used & ~is_shared
            table[is_copied] = self.allocator.copy(table[is_copied])
        else:
            table[is_used] = self.allocator.copy_from(source.allocator, table[is_used])
        self.page_table[rows, :width] = table

    def move(self, rows: Tensor, source_rows: Tensor) -> None:
        """Let rows take the place of others of this state, which are then empty; [n] int64 each."""
        self.linear[:, rows] = self.linear[:, source_rows]
        self._release(rows)
        self.lengths[rows] = self.lengths[source_rows]
        self.page_table[rows] = self.page_table[source_rows]
        self.page_table[source_rows] = 0
        self.lengths[source_rows] = 0

    def share(self, rows: Tensor) -> DecodeState:
        """Return a snapshot of rows, [n] int64, on the same pages; `reset` it when it is done.

        It stays as it is while the rows go on, and must not be decoded itself: `write` it to rows.
        """
        table = self.page_table[rows]
        column = torch.arange(table.shape[1], device=table.device)
        table[column >= page_count(self.lengths[rows])[:, None]] = 0
        self.allocator.retain(table.view(-1))
        return DecodeState(self.linear[:, rows], table, self.lengths[rows], self.allocator)

    def take(self, rows: Tensor) -> DecodeState:
        """Copy rows, [n] int64, into a state with pages of its own."""
        old = self.allocator.pages
        shape = (old.shape[0], old.shape[3], old.shape[5])
        taken = DecodeState(
            linear=self.linear.new_empty(len(self.linear), len(rows), *self.linear.shape[2:]),
            page_table=self.page_table.new_zeros(len(rows), 1),
            lengths=self.lengths.new_zeros(len(rows)),
            allocator=PageAllocator(shape, dtype=old.dtype, device=old.device),
        )
        taken.write(torch.arange(len(rows), device=rows.device), self, rows)
        return taken

    def reset(self, rows: Tensor) -> None:
        """Make rows, [n] int64, as if they had seen nothing; their pages are returned."""
        self.linear[:, rows] = 0.0
        self._release(rows)
        self.lengths[rows] = 0

    def _release(self, rows: Tensor) -> None:
        if self.allocator.num_layers:
            self.allocator.release(self.page_table[rows].view(-1))
            self.page_table[rows] = 0

    def _widen(self, columns: int) -> None:
        """Make room for `columns` pages a row, by half at least."""
        old = self.page_table.shape[1]
        if columns > old:
            new = max(columns, old * 3 // 2)
            self.page_table = F.pad(self.page_table, (0, new - old))


def page_count(lengths: Tensor) -> Tensor:
    """Pages that hold so many tokens."""
    return (lengths + (PAGE - 1)) // PAGE
