"""POST /v1/completions: prompts as text or tokens, and what the policy makes of them."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from aiohttp import web

from cispo.types import StopReason
from rollout.server.echo import NO_ECHO, Echo, echo_prompt
from rollout.server.errors import bad_request
from rollout.server.fields import Fields, parse_object
from rollout.server.generation import Piece, Prompt, generate
from rollout.server.options import HARMLESS, MAX_TOP_LOGPROBS, Options, read_options
from rollout.server.service import SERVICE, Service, finish_reason, response_id, usage
from rollout.server.streaming import dumps, respond_with_events

DEFAULT_MAX_TOKENS = 16
"""As in the OpenAI API, for this endpoint only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Completion:
    """A request that was read.

    Attributes:
        service: Who answers.
        id: Of the response.
        prompts: In tokens.
        has_echo: Whether choices begin with their prompt.
        options: Sampling and reporting.
        logprobs: Likeliest tokens to report; None wants no log-probabilities.
    """

    service: Service
    id: str
    prompts: Sequence[Prompt]
    has_echo: bool
    options: Options
    logprobs: int | None


async def complete(request: web.Request) -> web.StreamResponse:
    """Answer a request.

    Raises:
        ApiError: It cannot be answered as asked.
    """
    completion = _read(request.app[SERVICE], Fields(parse_object(await request.read())))
    driver = completion.service.driver
    echoes = [NO_ECHO] * len(completion.prompts)
    if completion.has_echo:
        echoes = [
            await echo_prompt(
                driver,
                completion.service.logprobs,
                prompt.token_ids,
                top_logprobs=completion.logprobs,
            )
            for prompt in completion.prompts
        ]
    if completion.options.max_tokens == 0:
        return await _respond(request, completion, echoes, _nothing(completion))
    async with generate(
        driver,
        completion.prompts,
        completion.options,
        name=completion.id,
        top_logprobs=completion.logprobs,
    ) as pieces:
        return await _respond(request, completion, echoes, pieces)


def _read(service: Service, fields: Fields) -> _Completion:
    service.check_model(fields.text("model"))
    options = read_options(fields, service.defaults)
    fields.only("best_of", options.n, reason="all n choices are returned, so it must equal n")
    fields.only("suffix", "", reason="the policy cannot fill in between")
    completion = _Completion(
        service=service,
        id=response_id("cmpl"),
        prompts=[
            service.prompt(ids, options.max_tokens, default=DEFAULT_MAX_TOKENS, param="prompt")
            for ids in _token_ids(service, fields)
        ],
        has_echo=fields.flag("echo"),
        options=options,
        logprobs=fields.integer("logprobs", None, low=0, high=MAX_TOP_LOGPROBS),
    )
    if options.max_tokens == 0 and not completion.has_echo:
        raise fields.error("max_tokens", "must be at least 1 without echo")
    fields.refuse_unread(HARMLESS)
    return completion


def _token_ids(service: Service, fields: Fields) -> list[tuple[int, ...]]:
    """Read the prompts: one or many, each as text or as tokens."""
    prompts = [value := fields.get("prompt")]
    if isinstance(value, list) and not all(_is_token(item) for item in value):
        prompts = value
    return [_prompt_ids(service, fields, prompt) for prompt in prompts]


def _prompt_ids(service: Service, fields: Fields, prompt: object) -> tuple[int, ...]:
    if isinstance(prompt, str):
        return tuple(service.driver.tokenizer.encode(fields.encodable("prompt", prompt)))
    if isinstance(prompt, list) and all(_is_token(item) for item in prompt):
        return tuple(prompt)
    raise bad_request(
        "prompt: must be a text, a list of texts, a list of token ids, or a list of such lists",
        param="prompt",
    )


def _is_token(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


async def _nothing(completion: _Completion) -> AsyncIterator[Piece]:
    """Yield the choices of a request that only wants its prompts back."""
    for choice in range(len(completion.prompts) * completion.options.n):
        yield Piece(
            choice=choice, text="", token_ids=(), logprobs=(), stop_reason=StopReason.LENGTH
        )


async def _respond(
    request: web.Request,
    completion: _Completion,
    echoes: Sequence[Echo],
    pieces: AsyncIterator[Piece],
) -> web.StreamResponse:
    if completion.options.is_streaming:
        return await respond_with_events(request, _chunks(completion, echoes, pieces))
    return web.json_response(await _whole(completion, echoes, pieces), dumps=dumps)


async def _chunks(
    completion: _Completion, echoes: Sequence[Echo], pieces: AsyncIterator[Piece]
) -> AsyncIterator[dict[str, object]]:
    header = _header(completion)
    blank = {"usage": None} if completion.options.has_usage else {}
    begun: set[int] = set()
    num_sampled = 0
    async for piece in pieces:
        choice = _choice(completion, echoes, piece, is_first=piece.choice not in begun)
        begun.add(piece.choice)
        num_sampled += len(piece.token_ids)
        yield header | {"choices": [choice]} | blank
    if completion.options.has_usage:
        yield header | {"choices": [], "usage": _usage(completion, num_sampled)}


async def _whole(
    completion: _Completion, echoes: Sequence[Echo], pieces: AsyncIterator[Piece]
) -> dict[str, object]:
    """Put the choices in order; each comes whole."""
    found = sorted([piece async for piece in pieces], key=lambda piece: piece.choice)
    return _header(completion) | {
        "choices": [_choice(completion, echoes, piece, is_first=True) for piece in found],
        "usage": _usage(completion, sum(len(piece.token_ids) for piece in found)),
    }


def _header(completion: _Completion) -> dict[str, object]:
    return {
        "id": completion.id,
        "object": "text_completion",
        "created": completion.service.created,
        "model": completion.service.model,
    }


def _choice(
    completion: _Completion, echoes: Sequence[Echo], piece: Piece, *, is_first: bool
) -> dict[str, object]:
    """Write a choice, or what it gained; its first piece brings the echo of its prompt."""
    index = piece.choice // completion.options.n
    echo = echoes[index]
    choice: dict[str, object] = {
        "index": piece.choice,
        "text": echo.text + piece.text if is_first else piece.text,
        "logprobs": None,
        "finish_reason": piece.stop_reason and finish_reason(piece.stop_reason),
        "stop_reason": piece.stop_reason,
    }
    if completion.logprobs is not None:
        logprobs = completion.service.logprobs.completion(piece, start=len(echo.text))
        if is_first:
            logprobs = {
                key: [*echo.logprobs.get(key, ()), *values] for key, values in logprobs.items()
            }
        choice["logprobs"] = logprobs
    if completion.options.has_token_ids:
        choice["token_ids"] = list(piece.token_ids)
        if is_first:
            choice["prompt_token_ids"] = list(completion.prompts[index].token_ids)
    return choice


def _usage(completion: _Completion, num_sampled: int) -> dict[str, int]:
    return usage(sum(len(prompt.token_ids) for prompt in completion.prompts), num_sampled)
