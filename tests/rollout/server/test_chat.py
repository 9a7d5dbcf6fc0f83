"""The unmodified `openai` client chats: turns, thoughts, tools, streams."""

import json
from itertools import chain

import pytest
from openai import OpenAI, Stream
from openai.types.chat import ChatCompletionChunk

from cispo.policy.chat import decode, render_prompt
from cispo.types import Message
from tests.rollout.server.running import (
    MODEL,
    TOKENIZER,
    Running,
    running_server,
    said,
    scripted_engine,
)

QUESTION = [{"role": "user", "content": "What is 6 times 7?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a place.",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}},
    },
}
CALLS = (
    "<think>\nI must look.\n</think>\nLet me see.\n<tool_calls>\n"
    '{"name": "weather", "arguments": {"place": "Zürich"}}\n'
    '{"name": "weather", "arguments": {"place": "京都"}}\n</tool_calls>'
)


def test_a_chat_is_the_completion_of_its_rendered_prompt(client: OpenAI) -> None:
    knobs = {"model": MODEL, "seed": 4, "max_tokens": 12, "extra_body": {"return_token_ids": True}}
    chat = client.chat.completions.create(messages=QUESTION, logprobs=True, top_logprobs=2, **knobs)
    prompt = render_prompt(TOKENIZER, [Message(role="user", content="What is 6 times 7?")])
    completion = client.completions.create(prompt=prompt, logprobs=2, **knobs)
    assert chat.prompt_token_ids == prompt
    assert chat.choices[0].token_ids == completion.choices[0].token_ids
    assert chat.choices[0].message.role == "assistant"
    assert chat.choices[0].message.content == completion.choices[0].text
    assert chat.usage == completion.usage
    entries = chat.choices[0].logprobs.content
    assert [e.logprob for e in entries] == completion.choices[0].logprobs.token_logprobs
    for entry in entries:
        assert len(entry.top_logprobs) == 2
        assert entry.bytes is None or bytes(entry.bytes).decode() == entry.token


def test_a_chat_has_the_budget_of_the_server_unless_it_names_one(client: OpenAI) -> None:
    def length(**knobs: int) -> int:
        answer = client.chat.completions.create(
            model=MODEL, messages=QUESTION, seed=8, stop=None, **knobs
        )
        assert answer.choices[0].finish_reason == "length"
        return answer.usage.completion_tokens

    assert length(max_completion_tokens=7) == length(max_tokens=7) == 7
    assert length() == 100


def test_content_may_come_in_parts_and_from_a_developer(client: OpenAI) -> None:
    parts = [
        {
            "role": "developer",
            "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}],
        },
        *QUESTION,
    ]
    plain = [{"role": "system", "content": "Be brief."}, *QUESTION]
    answers = [
        client.chat.completions.create(
            model=MODEL, messages=m, max_tokens=1, extra_body={"return_token_ids": True}
        )
        for m in (parts, plain)
    ]
    assert answers[0].prompt_token_ids == answers[1].prompt_token_ids


def test_a_streamed_chat_adds_up_to_the_answer(client: OpenAI) -> None:
    knobs = {"model": MODEL, "messages": QUESTION, "seed": 3, "n": 2, "max_tokens": 40}
    knobs |= {"logprobs": True, "top_logprobs": 1}
    whole = client.chat.completions.create(**knobs)
    chunks = list(
        client.chat.completions.create(**knobs, stream=True, stream_options={"include_usage": True})
    )
    for choice in whole.choices:
        mine = [c.choices[0] for c in chunks if c.choices and c.choices[0].index == choice.index]
        assert [part.delta.role for part in mine][:2] == ["assistant", None]
        assert "".join(part.delta.content or "" for part in mine) == choice.message.content
        assert [p.finish_reason for p in mine if p.finish_reason] == [choice.finish_reason]
        entries = chain.from_iterable(p.logprobs.content for p in mine if p.logprobs)
        assert list(entries) == choice.logprobs.content
    assert chunks[-1].usage == whole.usage


def collected(stream: Stream[ChatCompletionChunk]) -> dict[str, object]:
    """Put the deltas of a stream together, as a client does."""
    message: dict[str, object] = {"content": "", "reasoning_content": "", "calls": []}
    for chunk in stream:
        delta = chunk.choices[0].delta
        message["content"] += delta.content or ""
        message["reasoning_content"] += getattr(delta, "reasoning_content", None) or ""
        message["calls"] += delta.tool_calls or []
        message["reason"] = chunk.choices[0].finish_reason
    return message


def test_calls_of_tools_are_parsed() -> None:
    with running_server(lambda: scripted_engine(CALLS)) as running:
        knobs = {"model": MODEL, "messages": QUESTION, "tools": [WEATHER], "max_tokens": 300}
        choice = running.client.chat.completions.create(**knobs).choices[0]
        streamed = collected(running.client.chat.completions.create(**knobs, stream=True))
        untold = running.client.chat.completions.create(**knobs, tool_choice="none").choices[0]
    assert choice.finish_reason == streamed["reason"] == "tool_calls"
    assert choice.message.content == streamed["content"] == "Let me see."
    assert choice.message.reasoning_content == streamed["reasoning_content"] == "I must look."
    for calls in (choice.message.tool_calls, streamed["calls"]):
        assert [call.type for call in calls] == ["function"] * 2
        assert [call.function.name for call in calls] == ["weather"] * 2
        places = [json.loads(call.function.arguments)["place"] for call in calls]
        assert places == ["Zürich", "京都"]
        assert len({call.id for call in calls}) == 2
    assert [call.index for call in streamed["calls"]] == [0, 1]
    assert untold.finish_reason == "stop"
    assert untold.message.tool_calls is None
    assert untold.message.content.endswith("</tool_calls>")


def test_a_conversation_with_tools_is_rendered_for_the_policy(client: OpenAI) -> None:
    call = {"name": "weather", "arguments": '{"place": "Bern"}'}
    answer = client.chat.completions.create(
        model=MODEL,
        tools=[WEATHER],
        max_tokens=1,
        extra_body={"return_token_ids": True},
        messages=[
            *QUESTION,
            {
                "role": "assistant",
                "content": None,
                "reasoning_content": "I must look.",
                "tool_calls": [{"id": "call_1", "type": "function", "function": call}],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
        ],
    )
    prompt = decode(TOKENIZER, answer.prompt_token_ids)
    assert "The weather of a place." in prompt
    turn = (
        "<|im_start|>assistant\n<think>\nI must look.\n</think>\n<tool_calls>\n"
        '{"name": "weather", "arguments": {"place": "Bern"}}\n</tool_calls><|im_end|>\n'
        "<|im_start|>tool weather\nrain<|im_end|>\n<|im_start|>assistant\n"
    )
    assert prompt.endswith(turn)


def test_a_call_that_cannot_be_read_is_content() -> None:
    broken = '<tool_calls>\n{"name": "weather", "arguments": {"place": \n</tool_calls>'
    with running_server(lambda: scripted_engine(broken)) as running:
        knobs = {"model": MODEL, "messages": QUESTION, "tools": [WEATHER], "max_tokens": 300}
        choice = running.client.chat.completions.create(**knobs).choices[0]
        streamed = collected(running.client.chat.completions.create(**knobs, stream=True))
    assert choice.message.content == streamed["content"] == broken
    assert choice.finish_reason == streamed["reason"] == "stop"


def test_half_a_character_in_a_call_breaks_nothing() -> None:
    call = '<tool_calls>\n{"name": "weather", "arguments": {"place": "\\ud83d"}}\n</tool_calls>'
    with running_server(lambda: scripted_engine(call)) as running:
        knobs = {"model": MODEL, "messages": QUESTION, "tools": [WEATHER]}
        choice = running.client.chat.completions.create(**knobs).choices[0]
        streamed = collected(running.client.chat.completions.create(**knobs, stream=True))
    for found in (choice.message.tool_calls[0], streamed["calls"][0]):
        assert json.loads(found.function.arguments) == {"place": "\ud83d"}


def test_characters_stream_whole() -> None:
    text = "π ≈ 3; 日本語, 🙂🚀 naïve"
    assert len(said(text)) > len(text)
    with running_server(lambda: scripted_engine(text)) as running:
        stream = running.client.chat.completions.create(model=MODEL, messages=QUESTION, stream=True)
        parts = [chunk.choices[0].delta.content or "" for chunk in stream]
    assert "".join(parts) == text
    assert sum(map(bool, parts)) > 10
    assert not any("\N{REPLACEMENT CHARACTER}" in part for part in parts)


def test_a_stop_text_never_streams_however_it_is_cut(server: Running) -> None:
    knobs = {"model": MODEL, "messages": QUESTION, "seed": 2, "max_tokens": 60}
    text = server.client.chat.completions.create(**knobs).choices[0].message.content
    for start in range(5, len(text) - 8, 9):
        stop = text[start : start + 7]
        stream = server.client.chat.completions.create(**knobs, stop=[stop], stream=True)
        streamed = collected(stream)
        assert streamed["content"] == text[: text.index(stop)]
        assert streamed["reason"] == "stop"


@pytest.mark.parametrize("choice", ["auto", None])
def test_tools_that_are_not_called_change_nothing_of_the_answer(choice: str | None) -> None:
    with running_server(lambda: scripted_engine("It is 42.")) as running:
        answer = running.client.chat.completions.create(
            model=MODEL, messages=QUESTION, tools=[WEATHER], tool_choice=choice
        )
    assert answer.choices[0].message.content == "It is 42."
    assert answer.choices[0].message.tool_calls is None
    assert answer.choices[0].finish_reason == "stop"
