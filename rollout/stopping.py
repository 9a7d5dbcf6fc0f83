"""Decides for every row at once whether its sequence has ended."""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from cispo.types import StopReason

RUNNING: Final = 0
REASON_OF_CODE: Final = (
    None,
    StopReason.END_OF_TURN,
    StopReason.STOP_STRING,
    StopReason.REPETITION,
    StopReason.LENGTH,
)


def stop_table(stop_token_ids: frozenset[int], vocabulary_size: int) -> Tensor:
    """Return [V] bool, True at the tokens that end a turn.

    Raises:
        ValueError: A stop token lies outside the vocabulary.
    """
    outside = [token for token in stop_token_ids if not 0 <= token < vocabulary_size]
    if outside:
        raise ValueError(f"stop tokens {outside} lie outside the vocabulary of {vocabulary_size}")
    table = torch.zeros(vocabulary_size, dtype=torch.bool)
    table[sorted(stop_token_ids)] = True
    return table


def extend_streaks(streaks: Tensor, full_logprobs: Tensor, *, log_threshold: float) -> Tensor:
    """Return how many tokens in a row lie above the threshold, the new ones included: [N] int64.

    Probabilities before truncation are taken because top-k 1 makes every token certain.
    """
    return torch.where(full_logprobs > log_threshold, streaks + 1, 0)


def stop_codes(
    token_ids: Tensor,
    counts: Tensor,
    *,
    budgets: Tensor,
    streaks: Tensor,
    is_stop: Tensor,
    repetition_tokens: int,
    text_stops: Sequence[int] = (),
) -> Tensor:
    """Return the index into `REASON_OF_CODE` of each row: [N] int64, 0 where the sequence goes on.

    A turn whose last allowed token is a stop token ended by itself. The repetition stop is
    MiniMax-M1's (arXiv 2506.13585, page 8): generation halts after 3,000 consecutive tokens with a
    probability above 0.99 each.

    Args:
        token_ids: [N] the tokens just sampled.
        counts: [N] tokens sampled so far, these included.
        budgets: [N] tokens that may be sampled.
        streaks: [N] consecutive tokens above the repetition threshold, these included.
        is_stop: [V] bool, from `stop_table`.
        repetition_tokens: Streak that ends a sequence; 0 never does.
        text_stops: Rows whose text now holds a stop text.
    """
    codes = torch.where(counts >= budgets, 4, RUNNING)
    if repetition_tokens > 0:
        codes = torch.where(streaks >= repetition_tokens, 3, codes)
    if text_stops:
        codes[list(text_stops)] = 2
    return torch.where(is_stop[token_ids], 1, codes)
