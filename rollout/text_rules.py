"""What the texts of running rows decide: where they stop, and where their thoughts end."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rollout.backends.base import Request
from rollout.owners import Owner
from rollout.records import Records
from rollout.sampling import Drawn
from rollout.thinking import ThinkingBudgets
from rollout.token_text import THINKING_END, TextWatch, TokenText


def watched_texts(request: Request) -> tuple[str, ...]:
    """Texts that a member of a request waits for when it begins."""
    params = request.sampling
    has_budget = params.max_thinking_tokens > 0 or params.max_answer_tokens > 0
    return (*params.stop, THINKING_END) if has_budget else params.stop


class TextRules:
    """Stop texts and budgets of thoughts, for engines that know a tokenizer.

    Args:
        text: Of the tokenizer.
        capacity: Most rows.
        vocabulary_size: V.
        device: Where sampled tokens are.
    """

    def __init__(
        self,
        text: TokenText,
        capacity: int,
        *,
        vocabulary_size: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self._watch = TextWatch(text, capacity, vocabulary_size=vocabulary_size, device=device)
        self._thinking = ThinkingBudgets(text.interruption, capacity, device=device)

    @property
    def columns(self) -> tuple[Tensor, Tensor]:
        """What moves with a row: [capacity] each."""
        return self._thinking.limits, self._thinking.answers

    def begin(self, row: int, owner: Owner) -> None:
        """Let a row begin what is its owner's."""
        request = owner.request
        self._thinking.begin(row, request.sampling, seed=request.seeds[owner.member])

    def note_rows(self, owners: Sequence[Owner], num_before: int) -> None:
        """Take note that rows have come, gone or moved; `num_before` were running before."""
        self._thinking.note_rows([owner.request for owner in owners])
        if self._watch.num_watching or any(owner.texts for owner in owners):
            for row in range(max(num_before, len(owners))):
                self._watch.watch(row, owners[row].texts if row < len(owners) else ())

    def close(self, drawn: Drawn, counts: Tensor) -> tuple[Drawn, Tensor | None]:
        """Put closing tokens in the place of drawn ones; see `ThinkingBudgets.close`."""
        return self._thinking.close(drawn, counts)

    def read(
        self,
        token_ids: Tensor,
        owners: Sequence[Owner],
        *,
        records: Records,
        counts: Tensor,
        budgets: Tensor,
    ) -> list[int]:
        """Look for watched texts; returns the rows that stop with one.

        Args:
            token_ids: [N] the last tokens, which the records hold already.
            owners: Of N rows.
            records: Of all rows.
            counts: [N] tokens of each row.
            budgets: [N] tokens that it may have; lowered where its answer begins.
        """
        stopped = []
        for row in self._watch.candidates(token_ids):
            owner, count = owners[row], int(counts[row])
            tail = slice(max(0, count - self._watch.tail(row)), count)
            found = self._watch.found(row, records.tokens(row, tail))
            if any(text in owner.request.sampling.stop for text in found):
                stopped.append(row)
            elif found:  # the thoughts have ended
                self._thinking.end(row, count, budgets)
                owner.texts = owner.request.sampling.stop
                self._watch.watch(row, owner.texts)
        return stopped

    def is_sampled(self, row: int, count: int) -> list[bool]:
        """Return for each of a row's tokens whether the policy sampled it."""
        return self._thinking.is_sampled(row, count)
