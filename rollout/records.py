"""What the rows of an engine have sampled, with its log-probabilities."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from rollout.sampling import Drawn

_FIRST_COLUMNS = 256


class Records:
    """Tokens and their log-probabilities after and before truncation, one row a sequence.

    Args:
        capacity: Rows.
        device: Where sampled tokens are.
    """

    def __init__(self, capacity: int, *, device: torch.device | str = "cpu") -> None:
        def matrix(dtype: torch.dtype) -> Tensor:
            return torch.zeros(capacity, _FIRST_COLUMNS, dtype=dtype, device=device)

        self._matrices = [matrix(torch.int32), matrix(torch.float32), matrix(torch.float32)]
        self._longest = 0

    def append(self, rows: Tensor, counts: Tensor, drawn: Drawn) -> None:
        """Write one token to each of rows [N] that have [N] `counts` before it."""
        self._longest += 1
        if self._longest > self._matrices[0].shape[1]:
            self.make_room(int(counts.max()) + 1)
        tokens, logprobs, full_logprobs = self._matrices
        place = (rows, counts)
        tokens.index_put_(place, drawn.token_ids.int())
        logprobs.index_put_(place, drawn.logprobs)
        full_logprobs.index_put_(place, drawn.full_logprobs)

    def make_room(self, longest: int) -> None:
        """Widen all rows, to twice the width at least, unless `longest` tokens fit."""
        self._longest = longest
        columns = self._matrices[0].shape[1]
        if longest > columns:
            more = max(longest, 2 * columns) - columns
            self._matrices = [F.pad(matrix, (0, more)) for matrix in self._matrices]

    def tokens(self, row: int, part: slice) -> list[int]:
        """Return some of a row's tokens."""
        token_ids: list[int] = self._matrices[0][row, part].tolist()
        return token_ids

    def read(self, row: int, part: slice) -> tuple[list[int], list[float], list[float]]:
        """Return some of a row's tokens, with log-probabilities after and before truncation."""
        token_ids, logprobs, full_logprobs = (m[row, part].tolist() for m in self._matrices)
        return token_ids, logprobs, full_logprobs

    def replace(self, row: int, part: slice, full_logprobs: Tensor, is_sampled: Tensor) -> None:
        """Put other log-probabilities before truncation in some places; the kept mass stays.

        Args:
            row: The row.
            part: Of it, n tokens.
            full_logprobs: [n] float32.
            is_sampled: [n] False keeps 0.0.
        """
        _, logprobs, full = (matrix[row, part] for matrix in self._matrices)
        log_kept = full - logprobs
        full.copy_(full_logprobs.where(is_sampled, 0.0))
        logprobs.copy_((full_logprobs - log_kept).where(is_sampled, 0.0))

    def move(self, target: Tensor, source: Tensor) -> None:
        """Overwrite rows by others, both [n]."""
        for matrix in self._matrices:
            matrix[target] = matrix[source]

    def save(self, row: int, count: int) -> list[Tensor]:
        """Copy the first `count` places of a row."""
        return [matrix[row, :count].clone() for matrix in self._matrices]

    def restore(self, row: int, saved: list[Tensor]) -> None:
        """Put back what `save` copied."""
        count = len(saved[0])
        self.make_room(max(self._longest, count))
        for matrix, values in zip(self._matrices, saved, strict=True):
            matrix[row, :count] = values
