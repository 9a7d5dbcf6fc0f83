"""Keys and values of softmax layers in pages of 64 tokens that sequences own, share and return."""

from collections.abc import Sequence

import torch
from torch import Tensor

PAGE = 64
"""Tokens a page. Rows read whole pages: padding within a fixed granularity leaves the bits of every
row as they are."""


class PageAllocator:
    """Pages with reference counts; page 0 belongs to nobody and stands for "none".

    Args:
        shape: (L_full, KVH, D).
        num_pages: Pages to begin with, page 0 included.
        dtype: Of keys and values.
        device: Where pages live; the counts stay on the host.

    Attributes:
        pages: [L_full, P, 2, KVH, PAGE, D]; [:, :, 0] rotated keys, [:, :, 1] values. Another
            tensor after growth.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        *,
        num_pages: int = 1,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        layers, kv_heads, D = shape
        self.pages = torch.zeros(
            layers, num_pages, 2, kv_heads, PAGE, D, dtype=dtype, device=device
        )
        self._references = torch.zeros(num_pages, dtype=torch.int32)
        self._free = list(range(num_pages - 1, 0, -1))

    @property
    def num_layers(self) -> int:
        """L_full; without softmax layers there are no pages to own."""
        return self.pages.shape[0]

    @property
    def num_used(self) -> int:
        """Pages that somebody owns."""
        return len(self._references) - 1 - len(self._free)

    @property
    def page_bytes(self) -> int:
        """Memory of one page over all layers."""
        return self.pages[:, 0].nbytes

    def allocate(self, count: int) -> Tensor:
        """Return [count] int32 pages with one owner each; their contents are undefined."""
        if count > len(self._free):
            self._grow(count - len(self._free))
        taken = self._free[len(self._free) - count :]
        del self._free[len(self._free) - count :]
        ids = torch.tensor(taken, dtype=torch.int32)
        self._references[ids] = 1
        return ids.to(self.pages.device)

    def retain(self, ids: Tensor) -> None:
        """Add an owner to pages, [n] int32 in which pages may repeat; page 0 is left alone."""
        ids = ids.cpu()
        ids = ids[ids > 0]
        self._references.index_add_(0, ids, torch.ones_like(ids))

    def release(self, ids: Tensor) -> None:
        """Take an owner from pages, [n] int32 in which pages may repeat; page 0 is left alone."""
        ids = ids.cpu()
        ids = ids[ids > 0]
        self._references.index_add_(0, ids, torch.full_like(ids, -1))
        unowned = ids[self._references[ids] == 0]
        self._free += sorted(set(unowned.tolist()))

    def copy(self, ids: Tensor) -> Tensor:
        """Return new pages with the contents of others, [n] int32."""
        fresh = self.allocate(len(ids))
        self.pages[:, fresh] = self.pages[:, ids]
        return fresh

    def copy_from(self, other: "PageAllocator", ids: Tensor) -> Tensor:
        """Return new pages with the contents of pages of another allocator, [n] int32."""
        fresh = self.allocate(len(ids))
        self.pages[:, fresh] = other.pages[:, ids].to(self.pages)
        return fresh

    def _grow(self, missing: int) -> None:
        """Add pages, by half at least, so that growth is rare."""
        old = len(self._references)
        new = max(old + missing, old * 3 // 2)
        grown = self.pages.new_zeros(self.pages.shape[0], new, *self.pages.shape[2:])
        grown[:, :old] = self.pages
        self.pages = grown
        self._references = torch.nn.functional.pad(self._references, (0, new - old))
        self._free[:0] = range(new - 1, old - 1, -1)


def append(pages: Tensor, page: Tensor, offset: Tensor, pairs: Sequence[Tensor]) -> None:
    """Write keys and values [N, KVH, D] of one layer to places of its pages [P, 2, KVH, PAGE, D].

    Args:
        pages: Updated in place.
        page: [N] page of each token.
        offset: [N] its place there.
        pairs: Keys and values.
    """
    pages[page, :, :, offset] = torch.stack(tuple(pairs), dim=1).to(pages.dtype)


def gather(pages: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """Read whole pages of one layer; returns keys and values, both [N, KVH, W * PAGE, D].

    Args:
        pages: [P, 2, KVH, PAGE, D].
        table: [N, W] pages in the order of their tokens.
    """
    _, _, kv_heads, _, D = pages.shape
    N, W = table.shape
    heads = torch.arange(kv_heads, device=table.device).view(1, -1, 1)
    rows = table.view(N, 1, W) * (2 * kv_heads) + heads
    flat = pages.view(-1, PAGE * D)
    keys = flat.index_select(0, rows.view(-1))
    values = flat.index_select(0, rows.view(-1) + kv_heads)
    return keys.view(N, kv_heads, W * PAGE, D), values.view(N, kv_heads, W * PAGE, D)
