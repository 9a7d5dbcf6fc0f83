"""What an engine knows of its rows as numbers: one tensor a kind, one place in it a row."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rollout.backends.base import Request
from rollout.truncation import SamplingRows


class Columns(NamedTuple):
    """Columns of all rows, or their part that belongs to the first rows; each [N].

    Attributes:
        rows: int64, the number of each row.
        seeds: int64, of its noise; on the host.
        counts: int64, tokens that it has sampled.
        budgets: int64, tokens that it may sample.
        streaks: int64, its last tokens in a row that were nearly certain.
        last_tokens: int64.
        settings: Of the sampling.
    """

    rows: Tensor
    seeds: Tensor
    counts: Tensor
    budgets: Tensor
    streaks: Tensor
    last_tokens: Tensor
    settings: SamplingRows

    @classmethod
    def empty(cls, capacity: int, *, device: torch.device | str) -> Columns:
        """Make columns of zeros."""

        def column(dtype: torch.dtype) -> Tensor:
            return torch.zeros(capacity, dtype=dtype, device=device)

        return cls(
            rows=torch.arange(capacity, device=device),
            seeds=torch.zeros(capacity, dtype=torch.int64),
            counts=column(torch.int64),
            budgets=column(torch.int64),
            streaks=column(torch.int64),
            last_tokens=column(torch.int64),
            settings=SamplingRows(
                column(torch.float32),
                column(torch.float64),
                column(torch.int64),
                column(torch.float32),
            ),
        )

    def begin(self, rows: slice, request: Request, members: range) -> None:
        """Write what members of a request begin with."""
        params = request.sampling
        self.seeds[rows] = torch.tensor([request.seeds[member] for member in members])
        self.counts[rows] = 0
        self.streaks[rows] = 0
        self.budgets[rows] = params.max_new_tokens
        values = (params.temperature, params.top_p, params.top_k, params.min_p)
        for setting, value in zip(self.settings, values, strict=True):
            setting[rows] = value

    def first(self, count: int) -> Columns:
        """Look at the first rows' part of every column."""
        return Columns(
            rows=self.rows[:count],
            seeds=self.seeds[:count],
            counts=self.counts[:count],
            budgets=self.budgets[:count],
            streaks=self.streaks[:count],
            last_tokens=self.last_tokens[:count],
            settings=SamplingRows(*(setting[:count] for setting in self.settings)),
        )

    @property
    def of_a_row(self) -> tuple[Tensor, ...]:
        """The columns that move with a row, and are saved with it."""
        return (
            self.last_tokens,
            self.seeds,
            self.counts,
            self.budgets,
            self.streaks,
            *self.settings,
        )
