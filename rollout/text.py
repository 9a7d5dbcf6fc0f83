"""From sampled tokens to text, piece by piece: whole characters, and nothing of a stop text."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from cispo.policy.chat import decode

_UNKNOWN = "\N{REPLACEMENT CHARACTER}"
_MAX_UNKNOWN = 3
"""A character of UTF-8 has at most four bytes, so so many of them can be on their way."""


def before_stop(text: str, stop: Sequence[str]) -> str:
    """Text up to the first of the stop texts, or all of it."""
    found = [position for position in map(text.find, stop) if position >= 0]
    return text[: min(found)] if found else text


class Detokenizer:
    """Turns tokens into text as they come, without ever splitting a character.

    The pieces together are what `decode` makes of all tokens at once. A few tokens of context are
    decoded again with new ones, because some tokenizers treat a text's first token in its own way.

    Args:
        tokenizer: Of the policy.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._context: list[int] = []
        self._pending: list[int] = []

    def add(self, token_ids: Sequence[int]) -> str:
        """Return the text that these tokens complete."""
        self._pending += token_ids
        text = self._new_text()
        if 0 < len(text) - len(text.rstrip(_UNKNOWN)) <= _MAX_UNKNOWN:
            return ""
        self._context, self._pending = self._pending or self._context, []
        return text

    def finish(self) -> str:
        """Return what is left, replacement characters for incomplete ones included."""
        text, self._pending = self._new_text(), []
        return text

    def _new_text(self) -> str:
        if not self._pending:
            return ""
        known = decode(self._tokenizer, self._context)
        return decode(self._tokenizer, [*self._context, *self._pending])[len(known) :]


class StopFilter:
    """Passes text on up to the first stop text, and holds back what may be the beginning of one.

    Args:
        stop: Stop texts.

    Attributes:
        has_stopped: Whether one was found; nothing is passed on any more.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(stop)
        self._held = ""
        self.has_stopped = False

    def add(self, text: str) -> str:
        """Return the text that certainly stands before every stop text."""
        if self.has_stopped:
            return ""
        text = self._held + text
        passed = before_stop(text, self._stop)
        if len(passed) < len(text):
            self.has_stopped = True
            self._held = ""
            return passed
        start = len(text) - max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[start:]
        return text[:start]

    def finish(self) -> str:
        """Return what was held back for a stop text that did not come."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of a text with which a stop text begins."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
