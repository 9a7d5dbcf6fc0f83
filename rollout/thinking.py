"""Budgets of thoughts and answers: an engine ends thinking itself where its budget is exhausted."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rollout.backends.base import SamplingParams
from rollout.sampling import Drawn

_NEVER = 2**62


class ThinkingBudgets:
    """Rows whose thoughts are limited get the tokens of `</think>` instead of sampled ones.

    A row thinks from its first token until `</think>` stands in its text.

    Args:
        closing: The tokens of `</think>`.
        capacity: Most rows.
        device: Where sampled tokens are.

    Attributes:
        limits: [capacity] int64 thinking tokens after which a row is closed; huge where never.
        answers: [capacity] int64 tokens that may follow; huge where unlimited.
    """

    def __init__(
        self, closing: Sequence[int], capacity: int, *, device: torch.device | str = "cpu"
    ) -> None:
        self._closing = torch.tensor(closing, dtype=torch.int64, device=device)
        self.limits = torch.full((capacity,), _NEVER, dtype=torch.int64, device=device)
        self.answers = torch.full_like(self.limits, _NEVER)
        self._has_limits = False

    def begin(self, row: int, params: SamplingParams) -> None:
        """Let a row begin; see `note_rows`."""
        self.limits[row] = params.max_thinking_tokens or _NEVER
        self.answers[row] = params.max_answer_tokens or _NEVER

    def note_rows(self, num_active: int) -> None:
        """Take note that rows have come, gone or moved."""
        self._has_limits = bool((self.limits[:num_active] < _NEVER).any())

    def close(self, drawn: Drawn, counts: Tensor) -> tuple[Drawn, Tensor | None]:
        """Put closing tokens in the place of drawn ones where a budget is exhausted.

        Args:
            drawn: One token a row, N rows.
            counts: [N] tokens that the rows had before.

        Returns:
            The tokens, with log-probabilities of 0.0 where forced, and [N] bool, True there; None
            where no row is being closed.
        """
        if not self._has_limits:
            return drawn, None
        place = counts - self.limits[: len(counts)]
        is_forced = (place >= 0) & (place < len(self._closing))
        if not bool(is_forced.any()):
            return drawn, None
        forced = self._closing[place.clamp(0, len(self._closing) - 1)]
        return Drawn(
            torch.where(is_forced, forced, drawn.token_ids),
            drawn.logprobs.masked_fill(is_forced, 0.0),
            drawn.full_logprobs.masked_fill(is_forced, 0.0),
        ), is_forced

    def end(self, row: int, count: int, budgets: Tensor) -> None:
        """Let the answer of a row begin after `count` tokens; lowers its place in `budgets`."""
        if count <= int(self.limits[row]):
            self.limits[row] = _NEVER
        budgets[row] = min(int(budgets[row]), count + int(self.answers[row]))

    def is_sampled(self, row: int, count: int) -> list[bool]:
        """Return for each of a row's tokens whether the policy sampled it."""
        first = min(int(self.limits[row]), count)
        last = min(first + len(self._closing), count)
        return [True] * first + [False] * (last - first) + [True] * (count - last)
