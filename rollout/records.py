"""What the rows of an engine have sampled, with its log-probabilities."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from cispo.policy.lightning.native.notes import native_note
from cispo.types import UNROUTED
from rollout.columns import Columns
from rollout.sampling import Drawn

_FIRST_COLUMNS = 256


class Records:
    """Tokens and their log-probabilities after and before truncation, one row a sequence.

    Args:
        capacity: Rows.
        certainty: Probability that a nearly certain token exceeds.
        num_routes: Experts a token, where these are kept too; see `cispo.types.Rollout`.
        device: Where sampled tokens are.
        kernels: `native` writes with compiled code, on CPU.
    """

    def __init__(
        self,
        capacity: int,
        *,
        certainty: float,
        num_routes: int = 0,
        device: torch.device | str = "cpu",
        kernels: str = "torch",
    ) -> None:
        self._log_threshold = math.log(certainty)
        self._kernels = kernels

        def matrix(dtype: torch.dtype) -> Tensor:
            return torch.zeros(capacity, _FIRST_COLUMNS, dtype=dtype, device=device)

        self._matrices = [matrix(torch.int32), matrix(torch.float32), matrix(torch.float32)]
        if num_routes:
            shape = (capacity, _FIRST_COLUMNS, num_routes)
            self._matrices.append(torch.full(shape, UNROUTED, dtype=torch.uint8, device=device))
        self._longest = 0

    def append(self, drawn: Drawn, columns: Columns, *, is_forced: Tensor | None = None) -> None:
        """Write one token to each of N rows, and count it.

        Args:
            drawn: The tokens. Whether one is nearly certain goes by its probability before
                truncation, because top-k 1 makes every token certain.
            columns: Of these rows; counts, streaks and last tokens are updated in place.
            is_forced: [N] bool, True where the policy did not choose the token.
        """
        certain = drawn.full_logprobs
        if is_forced is not None:
            certain = certain.masked_fill(is_forced, -torch.inf)
        self._longest += 1
        if self._longest > self._matrices[0].shape[1]:
            self.make_room(int(columns.counts.max()) + 1)
        if self._kernels == "native":
            native_note(
                *drawn,
                certain,
                log_threshold=self._log_threshold,
                counts=columns.counts,
                streaks=columns.streaks,
                last_tokens=columns.last_tokens,
                matrices=self._matrices[:3],
            )
            return
        tokens, logprobs, full_logprobs = self._matrices[:3]
        place = (columns.rows, columns.counts)
        tokens.index_put_(place, drawn.token_ids.int())
        logprobs.index_put_(place, drawn.logprobs)
        full_logprobs.index_put_(place, drawn.full_logprobs)
        columns.last_tokens.copy_(drawn.token_ids)
        columns.counts.add_(1)
        columns.streaks.add_(1).masked_fill_(certain <= self._log_threshold, 0)

    def make_room(self, longest: int) -> None:
        """Widen all rows, to twice the width at least, unless `longest` tokens fit."""
        self._longest = longest
        columns = self._matrices[0].shape[1]
        if longest > columns:
            more = max(longest, 2 * columns) - columns
            self._matrices = [
                F.pad(matrix, (0, 0) * (matrix.dim() - 2) + (0, more)) for matrix in self._matrices
            ]

    def tokens(self, row: int, part: slice) -> list[int]:
        """Return some of a row's tokens."""
        token_ids: list[int] = self._matrices[0][row, part].tolist()
        return token_ids

    def read(self, row: int, part: slice) -> tuple[list[int], list[float], list[float]]:
        """Return some of a row's tokens, with log-probabilities after and before truncation."""
        token_ids, logprobs, full_logprobs = (m[row, part].tolist() for m in self._matrices[:3])
        return token_ids, logprobs, full_logprobs

    def route(self, rows: Tensor, places: Tensor, routes: Tensor) -> None:
        """Keep the experts [N, M] uint8 of one token of each of rows [N], at [N] `places`."""
        self._matrices[3].index_put_((rows, places), routes)

    def forget_routes(self, row: int, count: int) -> None:
        """Take back what `route` kept of the first `count` tokens of a row."""
        for routes in self._matrices[3:]:
            routes[row, :count] = UNROUTED

    def routes(self, row: int, count: int) -> bytes | None:
        """Return the experts of a row of `count` tokens, the last of which was never read."""
        for routes in self._matrices[3:]:
            known: bytes = routes[row, : count - 1].cpu().numpy().tobytes()
            return known + bytes([UNROUTED]) * routes.shape[-1]
        return None

    def replace(self, row: int, part: slice, full_logprobs: Tensor, is_sampled: Tensor) -> None:
        """Put other log-probabilities before truncation in some places; the kept mass stays.

        Args:
            row: The row.
            part: Of it, n tokens.
            full_logprobs: [n] float32.
            is_sampled: [n] False keeps 0.0.
        """
        _, logprobs, full = (matrix[row, part] for matrix in self._matrices[:3])
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
