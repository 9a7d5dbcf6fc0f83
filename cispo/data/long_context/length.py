"""How long a prompt is, in tokens, and how text is cut and gathered to a length."""

from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TypeAlias, TypeVar

from tokenizers import Tokenizer

from cispo.errors import ConfigError

TokenCount: TypeAlias = Callable[[str], float]
"""Tokens of a text."""

_BYTES_PER_TOKEN = 4
Piece = TypeVar("Piece")


@lru_cache(maxsize=8)
def token_count(tokenizer: str | None) -> TokenCount:
    """Return a counter of tokens.

    Args:
        tokenizer: Folder with a tokenizer.json. None counts four bytes of UTF-8 as one token, so
            that every policy gets the same tasks; English prose has about as many by the
            tokenizers of large models.

    Raises:
        ConfigError: There is no such tokenizer.
    """
    if tokenizer is None:
        return lambda text: len(text.encode()) / _BYTES_PER_TOKEN
    file = Path(tokenizer).expanduser() / "tokenizer.json"
    if not file.is_file():
        raise ConfigError(
            f"options.tokenizer={tokenizer}: no tokenizer.json there; name a folder that has one, "
            "or null to count four bytes as a token"
        )
    loaded = Tokenizer.from_file(str(file))
    return lambda text: len(loaded.encode(text, add_special_tokens=False).ids)


def gathered(
    pieces: Iterator[Piece], count: Callable[[Piece], float], *, tokens: int, taken: float
) -> list[Piece]:
    """Take pieces in order as long as they fit.

    Args:
        pieces: Endless, or as many as there are.
        count: Tokens of a piece.
        tokens: Of the whole prompt.
        taken: Of them, what the question and the needles need.

    Raises:
        ConfigError: Not even those fit.
    """
    if taken > tokens:
        raise ConfigError(
            f"options.tokens={tokens}: the question and its needles alone have {taken:.0f} tokens"
        )
    found = []
    for piece in pieces:
        taken += count(piece)
        if taken > tokens:
            break
        found.append(piece)
    return found


def middle_cut(text: str, tokens: int, count: TokenCount) -> str:
    """Drop the middle of a text that is too long, and keep its first and last half as they are.

    Proportionally by characters, so that the result has `tokens` tokens but for a few per cent.
    """
    have = count(text)
    if have <= tokens:
        return text
    half = int(len(text) * tokens / have / 2)
    return text[:half] + text[len(text) - half :]
