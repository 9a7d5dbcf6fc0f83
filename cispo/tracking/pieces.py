"""The text of single tokens, for people who look at rollouts token by token."""

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

_BEFORE = "a"
"""Tokens are read after a letter: some tokenizers drop a text's first space."""


class Pieces:
    """Texts of tokens; one with a part of a character shows U+FFFD."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Take the policy's tokenizer."""
        self._tokenizer = tokenizer
        self._before = tokenizer.encode(_BEFORE, add_special_tokens=False).ids
        self._known: dict[int, str] = {}

    def __call__(self, token_ids: Sequence[int]) -> list[str]:
        """Return what each token adds to a text."""
        return [self._piece(token) for token in token_ids]

    def _piece(self, token: int) -> str:
        if token not in self._known:
            text = self._decode([*self._before, token])
            self._known[token] = text[len(self._decode(self._before)) :]
        return self._known[token]

    def _decode(self, token_ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(token_ids, skip_special_tokens=False)
        return text


def numbers(token_ids: Sequence[int]) -> list[str]:
    """Stand in for `Pieces` where there is no tokenizer at hand."""
    return [f"⟨{token}⟩" for token in token_ids]


def pieces_of(policy: str | None) -> Pieces | None:
    """Read the tokenizer.json of a policy's folder, or return None where there is none."""
    path = Path(policy or "").expanduser() / "tokenizer.json"
    return Pieces(Tokenizer.from_file(str(path))) if policy and path.is_file() else None
