"""Finds texts in what is sampled; only rows whose last token may complete one are looked at."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cispo.policy.chat import decode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

THINKING_END = "</think>"
"""What a policy writes between its thoughts and its answer."""

_UNKNOWN = "\N{REPLACEMENT CHARACTER}"
_LAST = chr(0x10FFFF)


class TokenText:
    """The texts of single tokens, and of sequences of them.

    Args:
        tokenizer: Of the policy.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._interruptions: dict[str, tuple[int, ...]] = {}

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of tokens, special ones included."""
        return decode(self._tokenizer, token_ids)

    def interruption(self, phrase: str) -> tuple[int, ...]:
        """The tokens with which an engine ends thinking; an empty phrase is `</think>` alone."""
        if phrase not in self._interruptions:
            ids = self._tokenizer.encode(phrase or THINKING_END, add_special_tokens=False)
            self._interruptions[phrase] = tuple(ids)
        return self._interruptions[phrase]

    def may_complete(self, text: str, vocabulary_size: int) -> Tensor:
        """Return [V] bool: False where a token, as the last one, cannot complete the text.

        Tokens with a part of a character may complete any text that is not ASCII.
        """
        pieces, order = self._sorted_pieces
        may = torch.zeros(max(vocabulary_size, len(pieces)), dtype=torch.bool)
        if not text.isascii():
            may[self._partial] = True
        for start in range(len(text)):  # the token begins with an end of the text
            end = text[start:]
            first = bisect_left(order, (end, -1))
            last = bisect_left(order, (end + _LAST, -1))
            may[[token for _, token in order[first:last]]] = True
        may[[token for token, piece in enumerate(pieces) if text in piece]] = True
        return may[:vocabulary_size]

    @cached_property
    def _pieces(self) -> list[str]:
        """What each token adds after a letter: some tokenizers drop a text's first space."""
        tokens = range(len(self._tokenizer))
        letter = self._tokenizer.encode("a", add_special_tokens=False)
        before = self.decode(letter)
        pairs = [[*letter, token] for token in tokens]
        texts = self._tokenizer.batch_decode(
            pairs, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return [text[len(before) :] for text in texts]

    @cached_property
    def _sorted_pieces(self) -> tuple[list[str], list[tuple[str, int]]]:
        return self._pieces, sorted((piece, token) for token, piece in enumerate(self._pieces))

    @cached_property
    def _partial(self) -> list[int]:
        return [token for token, piece in enumerate(self._pieces) if _UNKNOWN in piece]


class TextWatch:
    """Which texts each row waits for.

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
        self._text = text
        self._vocabulary_size = vocabulary_size
        self._texts: dict[tuple[str, ...], int] = {(): 0}
        self._tables = torch.zeros(1, vocabulary_size, dtype=torch.bool, device=device)
        self._set_of_row = torch.zeros(capacity, dtype=torch.int64, device=device)
        self._watched: list[tuple[str, ...]] = [()] * capacity
        self.num_watching = 0

    def watch(self, row: int, texts: tuple[str, ...]) -> None:
        """Let a row wait for any of the texts; none lets it wait for nothing."""
        if texts == self._watched[row]:
            return
        self.num_watching += bool(texts) - bool(self._watched[row])
        self._watched[row] = texts
        if texts not in self._texts:
            self._add(texts)
        self._set_of_row[row] = self._texts[texts]

    def candidates(self, token_ids: Tensor) -> list[int]:
        """Rows whose last token, [N], may have completed a text."""
        if self.num_watching == 0:
            return []
        may = self._tables[self._set_of_row[: len(token_ids)], token_ids]
        rows: list[int] = may.nonzero()[:, 0].tolist()
        return rows

    def tail(self, row: int) -> int:
        """How many last tokens can hold the longest text of a row."""
        # every token has at least one byte; a character that is cut has up to three more
        return max(len(text.encode()) for text in self._watched[row]) + 4

    def found(self, row: int, token_ids: Sequence[int]) -> list[str]:
        """Return which texts of a row its last tokens hold."""
        text = self._text.decode(token_ids)
        return [watched for watched in self._watched[row] if watched in text]

    def _add(self, texts: tuple[str, ...]) -> None:
        if len(self._texts) > 2 * len(self._watched) + 16:
            self._drop_unused()
        table = torch.zeros(self._vocabulary_size, dtype=torch.bool)
        for text in texts:
            table |= self._text.may_complete(text, self._vocabulary_size)
        self._texts[texts] = len(self._tables)
        self._tables = torch.cat((self._tables, table[None].to(self._tables.device)))

    def _drop_unused(self) -> None:
        """Forget texts that no row waits for, as many requests with texts of their own leave."""
        watched = {(), *self._watched}
        used = [texts for texts in self._texts if texts in watched]
        self._tables = self._tables[[self._texts[texts] for texts in used]]
        self._texts = {texts: index for index, texts in enumerate(used)}
        for row, texts in enumerate(self._watched):
            self._set_of_row[row] = self._texts.get(texts, 0)
