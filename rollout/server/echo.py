"""Gives a prompt back with its choices, and with its log-probabilities, for evaluation tools."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cispo.policy.chat import decode
from rollout.driver import EngineDriver
from rollout.server.errors import bad_request
from rollout.server.generation import Piece
from rollout.server.logprobs import LogprobWriter
from rollout.text import Detokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Echo:
    """What the choices of a prompt begin with.

    Attributes:
        text: Of the prompt.
        logprobs: Of its tokens, in the shape of a completion; the first token has none.
    """

    text: str = ""
    logprobs: Mapping[str, Sequence[object]] = field(default_factory=dict)


NO_ECHO = Echo()


async def echo_prompt(
    driver: EngineDriver,
    writer: LogprobWriter,
    token_ids: Sequence[int],
    *,
    top_logprobs: int | None,
) -> Echo:
    """Read a prompt back; what the policy thinks of it costs one pass through the model.

    Raises:
        ApiError: The engine cannot score prompts.
    """
    text = decode(driver.tokenizer, token_ids)
    if top_logprobs is None:
        return Echo(text=text)
    try:
        scores = await driver.score(token_ids, top_logprobs)
    except ValueError as error:
        raise bad_request(f"logprobs with echo: {error}", param="logprobs") from error
    piece = Piece(
        choice=0,
        text=text,
        token_ids=token_ids[1:],
        logprobs=scores.logprobs,
        top_logprobs=scores.top_logprobs,
        offsets=_offsets(driver, token_ids)[1:],
    )
    first = {"tokens": decode(driver.tokenizer, token_ids[:1]), "text_offset": 0}
    return Echo(
        text=text,
        logprobs={
            key: [first.get(key), *values] for key, values in writer.completion(piece).items()
        },
    )


def _offsets(driver: EngineDriver, token_ids: Sequence[int]) -> list[int]:
    """Characters before each token."""
    detokenizer = Detokenizer(driver.tokenizer)
    offsets, length = [], 0
    for token in token_ids:
        offsets.append(length)
        length += len(detokenizer.add([token]))
    return offsets
