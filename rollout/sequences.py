"""The running sequences of an engine, one a row: noise, settings, what was drawn, when they end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from cispo.errors import DivergedError
from cispo.types import PolicyVersion
from rollout.backends.base import Finished, Increment, Request, StopRules, TopLogprobs
from rollout.sampling import NonFiniteLogitsError, SamplingRows, likeliest, sample, uniforms
from rollout.stopping import REASON_OF_CODE, RUNNING, extend_streaks, stop_codes, stop_table

_FIRST_COLUMNS = 256


class Moves(NamedTuple):
    """Rows that took the place of others: `source[i]` is now row `target[i]`; both [n] int64."""

    target: Tensor
    source: Tensor


@dataclass(slots=True, eq=False)
class _Owner:
    """Whose tokens a row holds.

    Attributes:
        request: The request.
        member: Which of its members.
        oldest_version: Weights that sampled the first token.
        num_streamed: Tokens that were handed out as increments.
        top_logprobs: A list a token, where the request asks for them.
    """

    request: Request
    member: int
    oldest_version: PolicyVersion
    num_streamed: int = 0
    top_logprobs: list[TopLogprobs] = field(default_factory=list)


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
        self._owners: list[_Owner] = []
        self._increments: list[Increment] = []

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
        self._full_logprobs = torch.zeros_like(self._logprobs)
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
        self._owners += [_Owner(request, member, version) for member in members]
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
            owner = self._owners[error.row]
            raise DivergedError(
                f"task {owner.request.task_id}, rollout {owner.member}: the logits after token "
                f"{int(counts[error.row])} are not finite under weights {version}"
            ) from error
        self._make_room()
        self._tokens[rows, counts] = drawn.token_ids.int()
        self._logprobs[rows, counts] = drawn.logprobs
        self._full_logprobs[rows, counts] = drawn.full_logprobs
        self._record_likeliest(logits)
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
            records = (self._tokens, self._logprobs, self._full_logprobs)
            for column in (*columns, *self._settings, *records):
                column[moves.target] = column[moves.source]
        return moves

    def rows_of(self, request_id: int) -> list[int]:
        """Return the running rows of a request."""
        return [r for r, owner in enumerate(self._owners) if owner.request.request_id == request_id]

    def forget(self, request_id: int) -> list[int]:
        """Drop what a request has not been handed yet, and return its rows, to be retired."""
        self._increments = [i for i in self._increments if i.request_id != request_id]
        return self.rows_of(request_id)

    def increments(self) -> list[Increment]:
        """Return the tokens of streaming rows since the last call, those of ended rows included."""
        for row in range(self.num_active):
            self._stream(row)
        increments, self._increments = self._increments, []
        return increments

    def _stream(self, row: int) -> None:
        owner = self._owners[row]
        new = slice(owner.num_streamed, int(self._counts[row]) if owner.request.stream else 0)
        if new.start >= new.stop:
            return
        owner.num_streamed = new.stop
        self._increments.append(
            Increment(
                request_id=owner.request.request_id,
                member=owner.member,
                token_ids=self._tokens[row, new].tolist(),
                logprobs=self._logprobs[row, new].tolist(),
                full_logprobs=self._full_logprobs[row, new].tolist(),
                top_logprobs=owner.top_logprobs[new] if owner.request.top_logprobs else None,
            )
        )

    def _record_likeliest(self, logits: Tensor) -> None:
        """Keep the likeliest tokens of the rows whose requests want to know them."""
        rows = [row for row, owner in enumerate(self._owners) if owner.request.top_logprobs]
        if not rows:
            return
        wanted = [self._owners[row].request.top_logprobs for row in rows]
        index = torch.tensor(rows, device=logits.device)
        values, ids = likeliest(logits[index], self._settings.temperature[index], max(wanted))
        lists = zip(rows, wanted, ids.tolist(), values.tolist(), strict=True)
        for row, count, tokens, logprobs in lists:
            pairs = list(zip(tokens, logprobs, strict=True))[:count]
            self._owners[row].top_logprobs.append(pairs)

    def _finished(self, row: int, version: PolicyVersion) -> Finished:
        self._stream(row)
        owner = self._owners[row]
        count = int(self._counts[row])
        reason = REASON_OF_CODE[int(self._codes[row])]
        assert reason is not None, f"row {row} is still running"
        return Finished(
            request_id=owner.request.request_id,
            member=owner.member,
            token_ids=self._tokens[row, :count].tolist(),
            logprobs=self._logprobs[row, :count].tolist(),
            full_logprobs=self._full_logprobs[row, :count].tolist(),
            is_sampled=[True] * count,
            top_logprobs=owner.top_logprobs if owner.request.top_logprobs else None,
            stop_reason=reason,
            oldest_version=owner.oldest_version,
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
            self._full_logprobs = torch.nn.functional.pad(self._full_logprobs, (0, columns))
