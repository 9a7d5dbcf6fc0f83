"""Log-probabilities in the two shapes in which the OpenAI API reports them."""

from collections.abc import Iterator, Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from cispo.policy.chat import decode
from rollout.backends.base import TopLogprobs
from rollout.server.generation import Piece

_LOWEST = -9999.0
"""Stands for minus infinity, which JSON cannot express."""


class LogprobWriter:
    """Writes log-probabilities with the texts of their tokens.

    Args:
        tokenizer: Of the policy.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._texts: dict[int, str] = {}

    def completion(self, piece: Piece, *, start: int = 0) -> Mapping[str, Sequence[object]]:
        """Write those of a piece of a completion: lists with one entry a token.

        The sampled token is always among the likeliest.

        Args:
            piece: With offsets.
            start: Characters before the piece's choice.
        """
        return {
            "tokens": [self._text(token) for token in piece.token_ids],
            "token_logprobs": [_finite(logprob) for logprob in piece.logprobs],
            "top_logprobs": [
                {self._text(id_): _finite(value) for id_, value in (*top, (token, logprob))}
                for token, logprob, top in _tokens(piece)
            ],
            "text_offset": [start + offset for offset in piece.offsets],
        }

    def chat(self, piece: Piece) -> list[dict[str, object]]:
        """Write those of a piece of a chat: one object a token."""
        return [
            {
                **self._entry(token, logprob),
                "top_logprobs": [self._entry(*likely) for likely in top],
            }
            for token, logprob, top in _tokens(piece)
        ]

    def _entry(self, token: int, logprob: float) -> dict[str, object]:
        text = self._text(token)
        is_whole = "\N{REPLACEMENT CHARACTER}" not in text
        return {
            "token": text,
            "logprob": _finite(logprob),
            "bytes": list(text.encode()) if is_whole else None,
        }

    def _text(self, token: int) -> str:
        if token not in self._texts:
            self._texts[token] = decode(self._tokenizer, [token])
        return self._texts[token]


def _tokens(piece: Piece) -> Iterator[tuple[int, float, TopLogprobs]]:
    nothing: Sequence[TopLogprobs] = [()] * len(piece.token_ids)
    return zip(piece.token_ids, piece.logprobs, piece.top_logprobs or nothing, strict=True)


def _finite(logprob: float) -> float:
    return max(logprob, _LOWEST)
