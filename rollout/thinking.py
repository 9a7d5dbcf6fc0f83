"""Budgets of thoughts and answers: an engine ends thinking itself where its budget is exhausted.

It writes `</think>`, or a phrase that ends with it: ScaleRL's alternative to cutting a rollout off
(arXiv 2510.13786), put at a random place of a range so that no place announces it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

import torch
from torch import Tensor

from cispo.seeding import stream_seed
from rollout.backends.base import Request, SamplingParams
from rollout.sampling import Drawn

_NEVER = 2**62


def thinking_limit(params: SamplingParams, *, seed: int) -> int:
    """Tokens after which the thoughts of one member are ended; 0 never.

    They lie within `thinking_jitter_tokens` below `max_thinking_tokens`, both ends included, each
    as likely as any other.

    Args:
        params: Of its request.
        seed: The member's.
    """
    last = params.max_thinking_tokens
    if params.thinking_jitter_tokens == 0:
        return last
    return Random(stream_seed(seed, "thinking")).randint(last - params.thinking_jitter_tokens, last)


class ThinkingBudgets:
    """Rows whose thoughts are limited get the tokens of an interruption instead of sampled ones.

    A row thinks from its first token until `</think>` stands in its text.

    Args:
        tokens_of: The tokens of an interruption; the empty one is `</think>`.
        capacity: Most rows.
        device: Where sampled tokens are.

    Attributes:
        limits: [capacity] int64 thinking tokens after which a row is closed; huge where never.
        answers: [capacity] int64 tokens that may follow; huge where unlimited.
    """

    def __init__(
        self,
        tokens_of: Callable[[str], Sequence[int]],
        capacity: int,
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        self._tokens_of = tokens_of
        self.limits = torch.full((capacity,), _NEVER, dtype=torch.int64, device=device)
        self.answers = torch.full_like(self.limits, _NEVER)
        self._has_limits = False
        self._closings: list[Sequence[int]] = []
        self._table = torch.zeros(0, 1, dtype=torch.int64, device=device)
        self._lengths = self._table[:, 0]

    def begin(self, row: int, params: SamplingParams, *, seed: int) -> None:
        """Let a row begin; see `note_rows`."""
        self.limits[row] = thinking_limit(params, seed=seed) or _NEVER
        self.answers[row] = params.max_answer_tokens or _NEVER

    def note_rows(self, requests: Sequence[Request]) -> None:
        """Take note that rows have come, gone or moved; those of the requests are running."""
        self._has_limits = bool((self.limits[: len(requests)] < _NEVER).any())
        if self._has_limits:
            self._closings = [self._tokens_of(one.sampling.interruption) for one in requests]
            longest = max(map(len, self._closings))
            rows = [[*closing, *[0] * (longest - len(closing))] for closing in self._closings]
            self._table = torch.tensor(rows, device=self.limits.device)
            self._lengths = torch.tensor(
                [len(closing) for closing in self._closings], device=self.limits.device
            )

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
        is_forced = (place >= 0) & (place < self._lengths)
        if not bool(is_forced.any()):
            return drawn, None
        forced = self._table.gather(1, place.clamp(0, self._table.shape[1] - 1)[:, None])[:, 0]
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
        if first == count:
            return [True] * count
        last = min(first + len(self._closings[row]), count)
        return [True] * first + [False] * (last - first) + [True] * (count - last)
