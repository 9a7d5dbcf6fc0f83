"""The running sequences of an engine, one a row: noise, settings, what was drawn, when they end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from cispo.errors import DivergedError
from cispo.types import PolicyVersion
from rollout.backends.base import Finished, Increment, Request, StopRules
from rollout.columns import Columns
from rollout.owners import Owner, SavedRow
from rollout.records import Records
from rollout.results import finished_member, next_increment, record_likeliest
from rollout.sampling import Drawn, NonFiniteLogitsError, sample, uniforms
from rollout.stopping import REASON_OF_CODE, Endings, stop_table
from rollout.text_rules import TextRules, watched_texts


class Moves(NamedTuple):
    """Rows that took the place of others: `source[i]` is now row `target[i]`; both [n] int64."""

    target: Tensor
    source: Tensor


class _Active(NamedTuple):
    """What belongs to running rows, until rows come or go.

    Attributes:
        columns: Their part of every column.
        rows_of_likeliest: Those whose requests want to know the likeliest tokens.
    """

    columns: Columns
    rows_of_likeliest: list[int]


class Sequences:
    """Rows 0 .. num_active - 1 are running; all that a token needs is done for all rows at once.

    Args:
        capacity: Most rows.
        vocabulary_size: V.
        stop: When they end.
        num_routes: Experts a token, where these are to be kept.
        device: Where the logits will be.
        kernels: Of the sampling; see `sample`.
    """

    def __init__(
        self,
        capacity: int,
        *,
        vocabulary_size: int,
        stop: StopRules,
        num_routes: int = 0,
        device: torch.device | str = "cpu",
        kernels: str = "torch",
    ) -> None:
        self.owners: list[Owner] = []
        self.capacity = capacity
        self._kernels = kernels
        self._endings = Endings(
            stop_table(stop.token_ids, vocabulary_size).to(device),
            repetition_tokens=stop.repetition_tokens,
            kernels=kernels,
        )
        self._increments: list[Increment] = []

        self._columns = Columns.empty(capacity, device=device)
        self._records = Records(
            capacity,
            certainty=stop.repetition_probability,
            num_routes=num_routes,
            device=device,
            kernels=kernels,
        )
        self._codes = torch.zeros_like(self._columns.counts)
        self._active: _Active | None = None
        self._version: PolicyVersion | None = None
        self._texts: TextRules | None = None
        if stop.text is not None:
            self._texts = TextRules(
                stop.text, capacity, vocabulary_size=vocabulary_size, device=device
            )

    @property
    def last_tokens(self) -> Tensor:
        """The token that each row sampled last, [capacity] int64."""
        return self._columns.last_tokens

    @property
    def num_active(self) -> int:
        """Rows that are running."""
        return len(self.owners)

    @property
    def num_free(self) -> int:
        """Rows that may still be admitted."""
        return self.capacity - self.num_active

    def admit(self, request: Request, members: range) -> slice:
        """Append members of a request.

        Returns:
            Their rows.
        """
        rows = slice(self.num_active, self.num_active + len(members))
        texts = watched_texts(request)
        self.owners += [Owner(request, member, texts=texts) for member in members]
        self._columns.begin(rows, request, members)
        if self._texts is not None:
            for row in range(rows.start, rows.stop):
                self._texts.begin(row, self.owners[row])
        self._note_rows(rows.start)
        return rows

    def draw(self, logits: Tensor, version: PolicyVersion) -> list[int]:
        """Draw a token for every running row, [num_active, V] float32.

        Returns:
            Rows that ended with it, ascending; they stay until `retire`.

        Raises:
            DivergedError: A row's logits are not finite.
        """
        if self._active is None or version != self._version:
            self._sign(version)
        active, rows_of_likeliest = self._active or self._views()
        drawn, is_forced = self._sample(logits, active, version), None
        if self._texts is not None:
            drawn, is_forced = self._texts.close(drawn, active.counts)
        self._records.append(drawn, active, is_forced=is_forced)
        if rows_of_likeliest:
            record_likeliest(self.owners, logits, active.settings.temperature, rows_of_likeliest)
        self._codes, ended = self._endings.find(
            drawn.token_ids,
            active.counts,
            text_stops=self._read_texts(drawn.token_ids, active),
            budgets=active.budgets,
            streaks=active.streaks,
        )
        return ended

    def route(self, routes: Tensor) -> None:
        """Keep the experts [num_active, M] that the last tokens went to, now that they are read."""
        active, _ = self._active or self._views()
        self._records.route(active.rows, active.counts - 1, routes)

    def forget_routes(self, row: int) -> None:
        """Leave the choice of experts to the learner, for all tokens of a row so far."""
        self._records.forget_routes(row, int(self._columns.counts[row]))

    def finished(self, rows: Sequence[int]) -> list[Finished]:
        """Return what ended rows sampled."""
        return list(map(self._finished, rows))

    def retire(self, rows: Sequence[int]) -> Moves:
        """Drop rows, ascending, and close the gaps with the last rows; returns what moved."""
        remaining = self.num_active - len(rows)
        gone = set(rows)
        target = [row for row in rows if row < remaining]
        source = [row for row in range(remaining, self.num_active) if row not in gone]
        moves = Moves(
            torch.tensor(target, dtype=torch.int64), torch.tensor(source, dtype=torch.int64)
        )
        num_before = self.num_active
        for to, origin in zip(target, source, strict=True):
            self.owners[to] = self.owners[origin]
        del self.owners[remaining:]
        if target:
            self._records.move(*moves)
            for column in self._saved_columns:
                column[moves.target] = column[moves.source]
        self._note_rows(num_before)
        return moves

    def save(self, row: int) -> SavedRow:
        """Return all that is known of a running row, which stays."""
        return SavedRow(
            self.owners[row],
            [column[row].clone() for column in self._saved_columns],
            self._records.save(row, int(self._columns.counts[row])),
        )

    def restore(self, saved: SavedRow) -> int:
        """Give a saved sequence a row; returns it."""
        row = self.num_active
        self.owners.append(saved.owner)
        for column, value in zip(self._saved_columns, saved.columns, strict=True):
            column[row] = value
        self._records.restore(row, saved.records)
        self._note_rows(row)
        return row

    def rows_of(self, request_id: int) -> list[int]:
        """Return the running rows of a request."""
        return [r for r, owner in enumerate(self.owners) if owner.request.request_id == request_id]

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

    def token_ids(self, row: int) -> list[int]:
        """What a row has sampled so far."""
        return self._records.tokens(row, slice(int(self._columns.counts[row])))

    def is_sampled(self, row: int) -> list[bool]:
        """Which of a row's tokens the policy sampled."""
        count = int(self._columns.counts[row])
        return [True] * count if self._texts is None else self._texts.is_sampled(row, count)

    def replace_logprobs(self, row: int, full_logprobs: Tensor) -> None:
        """Put other log-probabilities before truncation, [count] float32, in the recorded places.

        Those of tokens that were replaced before stay. The kept mass stays as it was sampled with.
        """
        owner, count = self.owners[row], int(self._columns.counts[row])
        new = slice(owner.num_replayed, count)
        owner.num_replayed = count
        is_sampled = torch.tensor(self.is_sampled(row)[new], device=full_logprobs.device)
        self._records.replace(row, new, full_logprobs[new], is_sampled)

    @property
    def _saved_columns(self) -> tuple[Tensor, ...]:
        return (*self._columns.of_a_row, *(() if self._texts is None else self._texts.columns))

    def _note_rows(self, num_before: int) -> None:
        """Take note that rows have come, gone or moved."""
        self._active = None
        if self._texts is not None:
            self._texts.note_rows(self.owners, num_before)

    def _sign(self, version: PolicyVersion) -> None:
        """Note the version that samples the next tokens, for rows that another one sampled."""
        self._version = version
        for row, owner in enumerate(self.owners):
            if not owner.version_starts or owner.version_starts[-1][0] != version:
                owner.version_starts.append((version, int(self._columns.counts[row])))

    def _views(self) -> _Active:
        """Look at the running rows, until rows come or go."""
        likeliest = [r for r, o in enumerate(self.owners) if o.request.top_logprobs]
        self._active = _Active(self._columns.first(self.num_active), likeliest)
        return self._active

    def _sample(self, logits: Tensor, active: Columns, version: PolicyVersion) -> Drawn:
        noise = uniforms(active.seeds, active.counts.cpu(), kernels=self._kernels)
        try:
            return sample(logits, noise.to(logits.device), active.settings, kernels=self._kernels)
        except NonFiniteLogitsError as error:
            owner = self.owners[error.row]
            raise DivergedError(
                f"task {owner.request.task_id}, rollout {owner.member}: the logits after token "
                f"{int(active.counts[error.row])} are not finite under weights {version}"
            ) from error

    def _read_texts(self, token_ids: Tensor, active: Columns) -> list[int]:
        """Rows that end with a stop text."""
        if self._texts is None:
            return []
        counts, budgets = active.counts, active.budgets
        return self._texts.read(
            token_ids, self.owners, records=self._records, counts=counts, budgets=budgets
        )

    def _stream(self, row: int) -> None:
        increment = next_increment(
            self.owners[row], self._records, row, count=int(self._columns.counts[row])
        )
        if increment is not None:
            self._increments.append(increment)

    def _finished(self, row: int) -> Finished:
        self._stream(row)
        reason = REASON_OF_CODE[int(self._codes[row])]
        assert reason is not None, f"row {row} is still running"
        owner, is_sampled = self.owners[row], self.is_sampled(row)
        return finished_member(owner, self._records, row, is_sampled=is_sampled, reason=reason)
