"""The feed-forward half of a layer for a few rows: only chosen experts are read."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from cispo.policy.lightning.experts import Experts
from cispo.policy.lightning.moe import MixtureOfExperts, Router
from cispo.policy.lightning.row_matrix import RowMatrix
from cispo.policy.precision import widened

FeedForward = Callable[[Tensor, Tensor | None], Tensor]
"""Maps rows x [M, d] to [M, d]; writes the experts of the first N to [N, k], if that is given."""


def recurrent_feed_forward(moe: MixtureOfExperts) -> FeedForward:
    """Lay out the weights of a layer's experts, on a CPU; elsewhere use them as they are."""
    if moe.experts.down_proj.device.type != "cpu":
        return partial(_by_module, moe)
    if moe.gate is None:
        return DenseRows(moe.experts)
    return ExpertRows(moe.gate, moe.experts, top_k=moe.top_k)


def _by_module(moe: MixtureOfExperts, x: Tensor, routes: Tensor | None) -> Tensor:
    y, routing = moe(x)
    if routes is not None and routing is not None:
        routes.copy_(routing.experts[: len(routes)])
    return widened(y)


class DenseRows:
    """The only expert of a layer."""

    def __init__(self, experts: Experts) -> None:
        self._gate_up = RowMatrix(experts.gate_up_proj[0])
        self._down = RowMatrix(experts.down_proj[0])

    def __call__(self, x: Tensor, _: Tensor | None = None) -> Tensor:
        """Run rows x [N, d]."""
        return self._down(_gated(self._gate_up(x)))


class ExpertRows:
    """Router and experts."""

    def __init__(self, router: Router, experts: Experts, *, top_k: int) -> None:
        self._top_k = top_k
        self._router = RowMatrix(router.weight.float())
        self._gate_up = [RowMatrix(weight) for weight in experts.gate_up_proj]
        self._down = [RowMatrix(weight) for weight in experts.down_proj]

    def __call__(self, x: Tensor, routes: Tensor | None = None) -> Tensor:
        """Run rows x [M, d] through their experts; write those of the first N to `routes` [N, k].

        The softmax over the chosen logits is that over all of them, renormalised.
        """
        logits, experts = self._router(x).topk(self._top_k, dim=-1)
        if routes is not None:
            routes.copy_(experts[: len(routes)])
        of_row, *of_others = experts.tolist()
        if all(of_other == of_row for of_other in of_others):  # so it is where one row is doubled
            of_rows = self._by_same_experts(x, of_row)
        else:
            of_rows = self._by_own_experts(x, experts)
        weights = torch.softmax(logits, dim=-1)
        return torch.bmm(weights.unsqueeze(1), of_rows)[:, 0]

    def _by_same_experts(self, x: Tensor, experts: Sequence[int]) -> Tensor:
        """Run all rows x [M, d] through the same k experts: [M, k, d]."""
        inner = _gated(torch.cat([self._gate_up[expert](x) for expert in experts]))
        parts = zip(experts, inner.view(len(experts), len(x), -1), strict=True)
        return torch.stack([self._down[expert](part) for expert, part in parts], dim=1)

    def _by_own_experts(self, x: Tensor, experts: Tensor) -> Tensor:
        """Run each row of x [M, d] through its own experts [M, k]: [M, k, d]."""
        chosen = experts.view(-1)
        order = chosen.argsort(stable=True)
        counts = chosen.bincount(minlength=len(self._down)).tolist()
        inputs = x.index_select(0, order // self._top_k)
        inner = _gated(_by_expert(inputs, counts, self._gate_up))
        outputs = _by_expert(inner, counts, self._down)
        return outputs.index_select(0, order.argsort()).view(*experts.shape, -1)


def _by_expert(x: Tensor, counts: Sequence[int], matrices: Sequence[RowMatrix]) -> Tensor:
    """Map the first counts[0] rows of x by matrices[0], the next counts[1] by matrices[1] ..."""
    parts = zip(x.split_with_sizes(counts), matrices, strict=True)
    return torch.cat([matrix(rows) for rows, matrix in parts if len(rows)])


def _gated(gate_up: Tensor) -> Tensor:
    """silu(gate) * up of [N, 2 I], in the place of gate: [N, I]."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate, inplace=True).mul_(up)
