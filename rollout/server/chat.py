"""POST /v1/chat/completions: conversations, tools, and the policy's next turn."""

import json
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass

from aiohttp import web

from cispo.errors import ConfigError
from cispo.policy.chat import decode, render_prompt
from cispo.policy.tool_calls import THINK, ToolCall
from cispo.types import StopReason
from rollout.server.errors import bad_request
from rollout.server.fields import Fields, parse_object
from rollout.server.generation import Piece, Prompt, generate
from rollout.server.messages import Conversation, read_conversation
from rollout.server.options import HARMLESS, MAX_TOP_LOGPROBS, Options, read_options
from rollout.server.service import SERVICE, Service, finish_reason, response_id, usage
from rollout.server.streaming import dumps, respond_with_events
from rollout.server.turn import TurnReader

_PROMPT_TAIL = 8
"""Tokens at a prompt's end among which a template may have opened the policy's thoughts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chat:
    """A request that was read.

    Attributes:
        service: Who answers.
        id: Of the response.
        prompt: The rendered conversation.
        has_tools: Whether there are tools to call.
        options: Sampling and reporting.
        logprobs: Likeliest tokens to report; None wants no log-probabilities.
    """

    service: Service
    id: str
    prompt: Prompt
    has_tools: bool
    options: Options
    logprobs: int | None


async def chat(request: web.Request) -> web.StreamResponse:
    """Answer a request.

    Raises:
        ApiError: It cannot be answered as asked.
    """
    asked = _read(request.app[SERVICE], Fields(parse_object(await request.read())))
    async with generate(
        asked.service.driver,
        [asked.prompt],
        asked.options,
        name=asked.id,
        top_logprobs=asked.logprobs,
    ) as pieces:
        if asked.options.is_streaming:
            return await respond_with_events(request, _chunks(asked, pieces))
        return web.json_response(await _whole(asked, pieces), dumps=dumps)


def _read(service: Service, fields: Fields) -> _Chat:
    if not service.has_chat:
        raise bad_request(
            "this server completes texts only (chat=false): use /v1/completions", param=None
        )
    service.check_model(fields.text("model"))
    options = read_options(fields, service.defaults)
    if options.max_tokens == 0:
        raise fields.error("max_tokens", "must be at least 1")
    conversation = read_conversation(fields)
    logprobs = _logprobs(fields)
    fields.only("modalities", ["text"], reason="the policy writes text only")
    fields.only("parallel_tool_calls", True, reason="the policy makes as many calls as it likes")
    fields.refuse_unread(HARMLESS)
    prompt = service.prompt(
        _render(service, conversation),
        options.max_tokens,
        default=service.defaults.max_new_tokens,
        param="messages",
    )
    return _Chat(
        service=service,
        id=response_id("chatcmpl"),
        prompt=prompt,
        has_tools=bool(conversation.tools),
        options=options,
        logprobs=logprobs,
    )


def _logprobs(fields: Fields) -> int | None:
    has_logprobs = fields.flag("logprobs")
    top = fields.integer("top_logprobs", None, low=0, high=MAX_TOP_LOGPROBS)
    if top is not None and not has_logprobs:
        raise fields.error("top_logprobs", "needs logprobs=true")
    return (top or 0) if has_logprobs else None


def _render(service: Service, conversation: Conversation) -> tuple[int, ...]:
    messages, tools = conversation.messages, conversation.tools
    try:
        return tuple(render_prompt(service.driver.tokenizer, messages, tools=tools))
    except ConfigError as error:  # the template refuses the roles, or knows no tools
        raise bad_request(str(error), param="tools" if tools else "messages") from error


class _Turn:
    """One choice of a chat while it grows."""

    def __init__(self, asked: _Chat) -> None:
        tail = decode(asked.service.driver.tokenizer, asked.prompt.token_ids[-_PROMPT_TAIL:])
        self._reader = TurnReader(
            is_thinking=tail.rstrip().endswith(THINK), has_tools=asked.has_tools
        )
        self._num_calls = 0

    def add(self, piece: Piece) -> tuple[dict[str, object], str | None]:
        """Return the fields that a message gains, and why it ends if it does."""
        delta = self._reader.add(piece.text)
        if piece.stop_reason is not None:
            delta += self._reader.finish()
        message: dict[str, object] = {}
        if delta.reasoning:
            message["reasoning_content"] = delta.reasoning
        if delta.content:
            message["content"] = delta.content
        if delta.tool_calls:
            message["tool_calls"] = [self._call(call) for call in delta.tool_calls]
        return message, self._finish_reason(piece.stop_reason)

    def _call(self, call: ToolCall) -> dict[str, object]:
        self._num_calls += 1
        return {
            "index": self._num_calls - 1,
            "id": f"call_{uuid.uuid4().hex[:24]}",
            "type": "function",
            "function": {
                "name": call.name,
                "arguments": json.dumps(call.arguments, ensure_ascii=False),
            },
        }

    def _finish_reason(self, reason: StopReason | None) -> str | None:
        if reason is None:
            return None
        word = finish_reason(reason)
        return "tool_calls" if self._num_calls and word == "stop" else word


async def _chunks(asked: _Chat, pieces: AsyncIterator[Piece]) -> AsyncIterator[dict[str, object]]:
    header = _header(asked, "chat.completion.chunk")
    blank = {"usage": None} if asked.options.has_usage else {}
    turns: dict[int, _Turn] = {}
    num_sampled = 0
    async for piece in pieces:
        num_sampled += len(piece.token_ids)
        is_first = piece.choice not in turns
        if is_first:
            turns[piece.choice] = _Turn(asked)
        delta, reason = turns[piece.choice].add(piece)
        details = _details(asked, piece)
        if is_first:
            delta = {"role": "assistant", "content": ""} | delta
        if delta or reason or details["logprobs"] or asked.options.has_token_ids:
            choice = {"index": piece.choice, "delta": delta, "finish_reason": reason, **details}
            yield header | _prompt_ids(asked, is_first) | {"choices": [choice]} | blank
    if asked.options.has_usage:
        yield header | {"choices": [], "usage": _usage(asked, num_sampled)}


async def _whole(asked: _Chat, pieces: AsyncIterator[Piece]) -> dict[str, object]:
    """Put the choices in order; each comes whole."""
    found = sorted([piece async for piece in pieces], key=lambda piece: piece.choice)
    choices = []
    for piece in found:
        message, reason = _Turn(asked).add(piece)
        message = {"role": "assistant", "content": None, "refusal": None} | message
        if "tool_calls" not in message:
            message["content"] = message["content"] or ""
        details = _details(asked, piece)
        choices.append(
            {"index": piece.choice, "message": message, "finish_reason": reason, **details}
        )
    num_sampled = sum(len(piece.token_ids) for piece in found)
    return (
        _header(asked, "chat.completion")
        | _prompt_ids(asked, True)
        | {"choices": choices, "usage": _usage(asked, num_sampled)}
    )


def _details(asked: _Chat, piece: Piece) -> dict[str, object]:
    """What a choice reports beside its message."""
    details: dict[str, object] = {"logprobs": None, "stop_reason": piece.stop_reason}
    if asked.logprobs is not None and piece.token_ids:
        content = asked.service.logprobs.chat(piece)
        details["logprobs"] = {"content": content, "refusal": None}
    if asked.options.has_token_ids:
        details["token_ids"] = list(piece.token_ids)
    return details


def _prompt_ids(asked: _Chat, is_first: bool) -> dict[str, object]:
    if is_first and asked.options.has_token_ids:
        return {"prompt_token_ids": list(asked.prompt.token_ids)}
    return {}


def _header(asked: _Chat, kind: str) -> dict[str, object]:
    return {
        "id": asked.id,
        "object": kind,
        "created": asked.service.created,
        "model": asked.service.model,
    }


def _usage(asked: _Chat, num_sampled: int) -> dict[str, int]:
    return usage(len(asked.prompt.token_ids), num_sampled)
