"""Weights that are laid out for products with a few rows, in which a row's bits are its own."""

import torch
from torch import Tensor

from cispo.policy.lightning.projection import product

_FEWEST_ROWS = 2
"""MKL gives a row of x @ w the same bits from so many rows on, where w is contiguous; one row is a
vector to it, which it sums in another order. With the transpose of a weight it would take 16."""

_PANEL = 512
"""Columns that are multiplied at once where a weight does not fit into a core's cache. With 32,000
columns and 512 inputs, that and `_GAP` save a quarter of the time of 2 rows and of 16; that threads
share the panels of one batched product and not each panel saves another third on two threads."""

_IN_CACHE = 2**18
"""Elements of a weight that fits: for these, one call is better than several."""

_GAP = 16
"""Elements between the rows of a panel; with a power of two from row to row they would compete for
the same lines of the cache."""


class RowMatrix:
    """x W^T as `Projection` computes it, of rows x; several weights with one input are joined.

    On a CPU the weights are copied, to float32. Elsewhere one weight is not copied.

    Args:
        weights: [outputs, inputs] each.
    """

    def __init__(self, *weights: Tensor) -> None:
        weight = (weights[0] if len(weights) == 1 else torch.cat(weights)).detach()
        self._dtype = weight.dtype
        self._is_on_cpu = weight.device.type == "cpu"
        is_whole = not self._is_on_cpu or weight.numel() <= _IN_CACHE
        self._in_panels = 0 if is_whole else len(weight) // _PANEL * _PANEL
        panels, rest = weight.tensor_split([self._in_panels])
        self._panels = _laid_out(panels.view(-1, _PANEL, panels.shape[1]))
        self._num_panels, self._has_rest = self._panels.shape[0], rest.shape[0] > 0
        self._rest = _laid_out(rest) if self._is_on_cpu else rest.t()

    def __call__(self, x: Tensor) -> Tensor:
        """Map x [N, inputs] to [N, outputs] float32.

        In float32 on a CPU, a row's bits depend neither on N nor on the other rows. For more than
        512 inputs that takes MKL_CBWR=AUTO,STRICT in the environment.
        """
        if not self._is_on_cpu:
            return product(x.to(self._dtype), self._rest)
        count = x.shape[0]  # len(x) takes longer, which would show at one row
        x = rounded(x if count >= _FEWEST_ROWS else doubled(x), self._dtype)
        y = self._by_panel(x) if self._in_panels else torch.mm(x, self._rest)
        return y if count >= _FEWEST_ROWS else y[:count]

    def _by_panel(self, x: Tensor) -> Tensor:
        by_panel = torch.bmm(x.expand(self._num_panels, *x.shape), self._panels)
        y = by_panel.transpose(0, 1).reshape(x.shape[0], self._in_panels)
        return torch.cat((y, torch.mm(x, self._rest)), dim=1) if self._has_rest else y


def _laid_out(weight: Tensor) -> Tensor:
    """Copy a weight [..., outputs, inputs] to [..., inputs, outputs] float32."""
    *batch, outputs, inputs = weight.shape
    room = weight.new_empty(*batch, inputs, outputs + _GAP, dtype=torch.float32)
    return room[..., :outputs].copy_(weight.mT)


def doubled(x: Tensor) -> Tensor:
    """Repeat the row of x [1, ...]; return x itself if it has more rows."""
    return x if x.shape[0] >= _FEWEST_ROWS else torch.cat((x,) * _FEWEST_ROWS)


def rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Round float32 values to a dtype, and keep them in float32."""
    return x if dtype == torch.float32 else x.to(dtype).float()
