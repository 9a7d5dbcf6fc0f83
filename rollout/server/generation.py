"""From prompts to choices that grow piece by piece: the engine's tokens as text."""

import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from cispo.policy.chat import stop_token_ids
from cispo.seeding import stream_seed
from cispo.types import StopReason
from rollout.backends.base import Finished, Increment, Request, TopLogprobs
from rollout.driver import EngineDriver, Event
from rollout.server.errors import bad_request
from rollout.server.options import Options
from rollout.text import Detokenizer, StopFilter


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One prompt and the budget of its choices.

    Attributes:
        token_ids: At least one.
        max_new_tokens: Tokens of each choice.
    """

    token_ids: tuple[int, ...]
    max_new_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What a choice gained.

    Attributes:
        choice: Its index: all choices of the first prompt come first.
        text: Whole characters that certainly belong to the choice.
        token_ids: Tokens, which may be ahead of the text.
        logprobs: In nats, one a token, after temperature and before truncation.
        top_logprobs: The likeliest tokens at each of them; empty where not asked for.
        offsets: Characters of the choice before each token; empty where not asked for.
        stop_reason: Why the choice ended, in its last piece; None before.
    """

    choice: int
    text: str
    token_ids: Sequence[int]
    logprobs: Sequence[float]
    top_logprobs: Sequence[TopLogprobs] = ()
    offsets: Sequence[int] = ()
    stop_reason: StopReason | None = None


@asynccontextmanager
async def generate(
    driver: EngineDriver,
    prompts: Sequence[Prompt],
    options: Options,
    *,
    name: str,
    top_logprobs: int | None,
) -> AsyncIterator[AsyncIterator[Piece]]:
    """Sample `options.n` choices of every prompt; leaving early frees the engine of them.

    Args:
        driver: Of the engine.
        prompts: At least one.
        options: The same for all prompts.
        name: Of the request, for messages.
        top_logprobs: Likeliest tokens to report at each position; None wants no log-probabilities.

    Yields:
        Pieces; a choice comes whole unless the request streams.

    Raises:
        ApiError: The engine can never serve this.
    """
    seed = secrets.randbits(63) if options.seed is None else options.seed
    seeds = tuple(stream_seed(seed, member) for member in range(options.n))
    requests = [
        Request(
            request_id=driver.new_request_id(),
            task_id=name,
            prompt=prompt.token_ids,
            seeds=seeds,
            sampling=options.params(prompt.max_new_tokens),
            stream=options.is_streaming,
            top_logprobs=top_logprobs or 0,
        )
        for prompt in prompts
    ]
    first_choices = {r.request_id: i * options.n for i, r in enumerate(requests)}
    async with AsyncExitStack() as stack:
        try:
            events = await stack.enter_async_context(driver.open(*requests))
        except ValueError as error:
            raise bad_request(str(error), param=None) from error
        yield _pieces(driver, events, first_choices, options, has_offsets=top_logprobs is not None)


async def _pieces(
    driver: EngineDriver,
    events: AsyncIterator[Event],
    first_choices: Mapping[int, int],
    options: Options,
    *,
    has_offsets: bool,
) -> AsyncIterator[Piece]:
    silent = stop_token_ids(driver.tokenizer)
    choices: dict[int, _Choice] = {}
    async for event in events:
        index = first_choices[event.request_id] + event.member
        if index not in choices:
            choices[index] = _Choice(
                index=index,
                detokenizer=Detokenizer(driver.tokenizer),
                stop_filter=StopFilter(options.stop),
                silent=silent,
                has_offsets=has_offsets,
            )
        yield choices[index].piece(event)


@dataclass(slots=True, kw_only=True)
class _Choice:
    """A choice that grows.

    Attributes:
        index: Which one.
        detokenizer: Makes characters of tokens.
        stop_filter: Ends the text at a stop text.
        silent: Tokens that end a turn and are no part of its text.
        has_offsets: Whether to count characters token by token.
        num_tokens: Tokens so far.
        num_characters: Characters so far, those that the stop filter holds included.
    """

    index: int
    detokenizer: Detokenizer
    stop_filter: StopFilter
    silent: frozenset[int]
    has_offsets: bool
    num_tokens: int = 0
    num_characters: int = 0

    def piece(self, event: Increment | Finished) -> Piece:
        """Take in what is new; a finished member also brings the tokens that did not stream."""
        new, stop_reason = slice(0, None), None
        if isinstance(event, Finished):
            new, stop_reason = slice(self.num_tokens, None), event.stop_reason
        token_ids = event.token_ids[new]
        self.num_tokens += len(token_ids)
        text, offsets = self._text(token_ids)
        if stop_reason is not None:
            text += self.stop_filter.add(self.detokenizer.finish()) + self.stop_filter.finish()
            if self.stop_filter.has_stopped:
                stop_reason = StopReason.STOP_STRING
        return Piece(
            choice=self.index,
            text=text,
            token_ids=token_ids,
            logprobs=event.full_logprobs[new],
            top_logprobs=() if event.top_logprobs is None else event.top_logprobs[new],
            offsets=offsets,
            stop_reason=stop_reason,
        )

    def _text(self, token_ids: Sequence[int]) -> tuple[str, list[int]]:
        visible = [token for token in token_ids if token not in self.silent]
        if not self.has_offsets:
            return self.stop_filter.add(self.detokenizer.add(visible)), []
        text, offsets = "", [self.num_characters] * len(token_ids)
        for i, token in enumerate(visible):
            offsets[i] = self.num_characters
            new = self.detokenizer.add([token])
            self.num_characters += len(new)
            text += self.stop_filter.add(new)
        offsets[len(visible) :] = [self.num_characters] * (len(token_ids) - len(visible))
        return text, offsets
