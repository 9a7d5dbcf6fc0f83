"""Decides for every row at once whether its sequence has ended."""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from cispo.policy.lightning.native.notes import native_endings
from cispo.types import StopReason

REASON_OF_CODE: Final = (
    None,
    StopReason.END_OF_TURN,
    StopReason.STOP_STRING,
    StopReason.REPETITION,
    StopReason.LENGTH,
)
_END_OF_TURN, _STOP_STRING, _REPETITION, _LENGTH = range(1, len(REASON_OF_CODE))


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


class Endings:
    """Finds the rows that end with their newest token.

    A turn whose last allowed token is a stop token ended by itself. The repetition stop is
    MiniMax-M1's (arXiv 2506.13585, page 8): generation halts after 3,000 consecutive tokens with a
    probability above 0.99 each.

    Args:
        is_stop: [V] bool, from `stop_table`, where the logits are.
        repetition_tokens: Streak of nearly certain tokens that ends a sequence; 0 never does.
        kernels: `native` finds the same with compiled code, on CPU.
    """

    def __init__(self, is_stop: Tensor, *, repetition_tokens: int, kernels: str = "torch") -> None:
        self._is_stop = is_stop
        self._repetition_tokens = repetition_tokens
        self._kernels = kernels

    def find(
        self,
        token_ids: Tensor,
        counts: Tensor,
        *,
        budgets: Tensor,
        streaks: Tensor,
        text_stops: Sequence[int] = (),
    ) -> tuple[Tensor, list[int]]:
        """Return each row's index into `REASON_OF_CODE`, [N] int64, and the rows that end.

        Args:
            token_ids: [N] int64, the newest tokens.
            counts: [N] int64, tokens sampled so far, these included.
            budgets: [N] int64, tokens that may be sampled.
            streaks: [N] int64, nearly certain tokens in a row, these included.
            text_stops: Rows whose text now holds a stop text.
        """
        codes = torch.zeros_like(counts)
        if self._kernels == "native":
            if text_stops:
                codes[list(text_stops)] = _STOP_STRING
            num_ended = native_endings(
                token_ids,
                counts,
                budgets=budgets,
                streaks=streaks,
                is_stop=self._is_stop,
                repetition_tokens=self._repetition_tokens,
                codes=codes,
            )
            return codes, codes.nonzero()[:, 0].tolist() if num_ended else []
        codes.masked_fill_(counts >= budgets, _LENGTH)
        if self._repetition_tokens > 0:
            codes.masked_fill_(streaks >= self._repetition_tokens, _REPETITION)
        if text_stops:
            codes[list(text_stops)] = _STOP_STRING
        codes.masked_fill_(self._is_stop.take(token_ids), _END_OF_TURN)
        return codes, codes.nonzero()[:, 0].tolist()
