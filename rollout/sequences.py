"""The running sequences of an engine, one a row: noise, settings, what was drawn, when they end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cispo.errors import DivergedError
from cispo.types import PolicyVersion
from rollout.backends.base import Finished, Request, StopRules
from rollout.sampling import NonFiniteLogitsError, SamplingRows, sample, uniforms
from rollout.stopping import REASON_OF_CODE, RUNNING, extend_streaks, stop_codes, stop_table

_FIRST_COLUMNS = 256


class Moves(NamedTuple):
    """Rows that took the place of others: `source[i]` is now row `target[i]`; both [n] int64."""

    target: Tensor
    source: Tensor


class Sequences:
    """Rows 0 .. num_active - 1 are running; all that a token needs is done for all rows at once.

    Args:
        capacity: Most rows.
        vocabulary_size: V.
        stop: When they end.
        device: Where the logits will be.
    """

    def __init__(
        self,
        capacity: int,
        *,
        vocabulary_size: int,
        stop: StopRules,
        device: torch.device | str = "cpu",
    ) -> None:
        self.num_active = 0
        self.capacity = capacity
        self._repetition_tokens = stop.repetition_tokens
        self._log_threshold = math.log(stop.repetition_probability)
        self._is_stop = stop_table(stop.token_ids, vocabulary_size).to(device)
        self._owners: list[tuple[Request, int, PolicyVersion]] = []

        def column(dtype: torch.dtype) -> Tensor:
            return torch.zeros(capacity, dtype=dtype, device=device)

        self.last_tokens = column(torch.int64)
        self._seeds = torch.zeros(capacity, dtype=torch.int64)
        self._counts = column(torch.int64)
        self._budgets = column(torch.int64)
        self._streaks = column(torch.int64)
        self._settings = SamplingRows(
            column(torch.float32), column(torch.float64), column(torch.int64), column(torch.float32)
        )
        self._rows = torch.arange(capacity, device=device)
        self._tokens = torch.zeros(capacity, _FIRST_COLUMNS, dtype=torch.int32, device=device)
        self._logprobs = torch.zeros(capacity, _FIRST_COLUMNS, device=device)
        self._codes = column(torch.int64)
        self._longest = 0

    @property
    def num_free(self) -> int:
        """Rows that may still be admitted."""
        return self.capacity - self.num_active

    def admit(self, request: Request, members: range, version: PolicyVersion) -> slice:
        """Append members of a request; `version` will sample their first token.

        Returns:
            Their rows.
        """
        rows = slice(self.num_active, self.num_active + len(members))
        self.num_active = rows.stop
        self._owners += [(request, member, version) for member in members]
        params = request.sampling
        self._seeds[rows] = torch.tensor([request.seeds[member] for member in members])
        self._counts[rows] = 0
        self._streaks[rows] = 0
        self._budgets[rows] = params.max_new_tokens
        values = (params.temperature, params.top_p, params.top_k, params.min_p)
        for setting, value in zip(self._settings, values, strict=True):
            setting[rows] = value
        return rows

    def draw(self, logits: Tensor, version: PolicyVersion) -> list[int]:
        """Draw a token for every running row, [num_active, V] float32.

        Returns:
            Rows that ended with it, ascending; they stay until `retire`.

        Raises:
            DivergedError: A row's logits are not finite.
        """
        active = slice(self.num_active)
        rows, counts = self._rows[active], self._counts[active]
        noise = uniforms(self._seeds[active], counts.cpu()).to(logits.device)
        try:
            drawn = sample(logits, noise, SamplingRows(*(s[active] for s in self._settings)))
        except NonFiniteLogitsError as error:
            request, member, _ = self._owners[error.row]
            raise DivergedError(
                f"task {request.task_id}, rollout {member}: the logits after token "
                f"{int(counts[error.row])} are not finite under weights {version}"
            ) from error
        self._make_room()
        self._tokens[rows, counts] = drawn.token_ids.int()
        self._logprobs[rows, counts] = drawn.logprobs
        self.last_tokens[active] = drawn.token_ids
        counts += 1
        self._longest += 1
        streaks = self._streaks[active]
        streaks.copy_(
            extend_streaks(streaks, drawn.full_logprobs, log_threshold=self._log_threshold)
        )
        self._codes = stop_codes(
            drawn.token_ids,
            counts,
            budgets=self._budgets[active],
            streaks=streaks,
            is_stop=self._is_stop,
            repetition_tokens=self._repetition_tokens,
        )
        ended: list[int] = (self._codes != RUNNING).nonzero()[:, 0].tolist()
        return ended

    def finished(self, rows: Sequence[int], version: PolicyVersion) -> list[Finished]:
        """Return what ended rows sampled; `version` sampled their last token."""
        return [self._finished(row, version) for row in rows]

    def retire(self, rows: Sequence[int]) -> Moves:
        """Drop rows, ascending, and close the gaps with the last rows; returns what moved."""
        remaining = self.num_active - len(rows)
        gone = set(rows)
        target = [row for row in rows if row < remaining]
        source = [row for row in range(remaining, self.num_active) if row not in gone]
        moves = Moves(
            torch.tensor(target, dtype=torch.int64), torch.tensor(source, dtype=torch.int64)
        )
        for to, origin in zip(target, source, strict=True):
            self._owners[to] = self._owners[origin]
        del self._owners[remaining:]
        self.num_active = remaining
        if target:
            self._seeds[moves.target] = self._seeds[moves.source]
            columns = (self.last_tokens, self._counts, self._budgets, self._streaks)
            for column in (*columns, *self._settings, self._tokens, self._logprobs):
                column[moves.target] = column[moves.source]
        return moves

    def rows_of(self, request_id: int) -> list[int]:
        """Return the running rows of a request."""
        return [r for r, owner in enumerate(self._owners) if owner[0].request_id == request_id]

    def _finished(self, row: int, version: PolicyVersion) -> Finished:
        request, member, oldest_version = self._owners[row]
        count = int(self._counts[row])
        reason = REASON_OF_CODE[int(self._codes[row])]
        assert reason is not None, f"row {row} is still running"
        return Finished(
            request_id=request.request_id,
            member=member,
            token_ids=self._tokens[row, :count].tolist(),
            logprobs=self._logprobs[row, :count].tolist(),
            stop_reason=reason,
            oldest_version=oldest_version,
            newest_version=version,
        )

    def _make_room(self) -> None:
        """Double the recorded tokens' columns before any row can reach the last one."""
        columns = self._tokens.shape[1]
        if self._longest < columns:
            return
        self._longest = int(self._counts[: self.num_active].max())
        if self._longest == columns:
            self._tokens = torch.nn.functional.pad(self._tokens, (0, columns))
            self._logprobs = torch.nn.functional.pad(self._logprobs, (0, columns))
