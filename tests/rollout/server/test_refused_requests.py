"""What cannot be answered is refused with an error that names the field."""

import http.client
import json
from collections.abc import Mapping
from typing import Any

import openai
import pytest
from openai import OpenAI

from tests.rollout.server.running import (
    CONTEXT,
    MODEL,
    TOKENIZER,
    Running,
    lightning_engine,
    running_server,
    scripted_engine,
)

QUESTION = [{"role": "user", "content": "hi"}]
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{"}}

COMPLETIONS: list[tuple[Mapping[str, Any], str, str]] = [
    ({"temperature": -0.5}, "temperature", "must be a number in 0 .. 100"),
    ({"temperature": "hot"}, "temperature", "must be a number"),
    ({"top_p": 0}, "top_p", "temperature=0"),
    ({"min_p": 1}, "min_p", "below 1"),
    ({"top_k": 1.5}, "top_k", "must be a whole number"),
    ({"n": 0}, "n", "in 1 .. 128"),
    ({"n": True}, "n", "must be a whole number"),
    ({"max_tokens": -1}, "max_tokens", "whole number"),
    ({"max_tokens": 0}, "max_tokens", "at least 1 without echo"),
    ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens", "contradicts"),
    ({"seed": 2**63}, "seed", "whole number"),
    ({"stop": [""]}, "stop", "none of them empty"),
    ({"stop": 3}, "stop", "must be a list"),
    ({"stream": "yes"}, "stream", "true or false"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "needs stream=true"),
    ({"logprobs": 21}, "logprobs", "in 0 .. 20"),
    ({"best_of": 3}, "best_of", "must equal n"),
    ({"suffix": "end"}, "suffix", "not supported"),
    ({"logit_bias": {"5": 10}}, "logit_bias", "not supported"),
    ({"presence_penalty": 0.5}, "presence_penalty", "not supported"),
    ({"repetition_penalty": 1.2}, "repetition_penalty", "not supported"),
    ({"temprature": 1}, "temprature", "did you mean temperature?"),
    ({"prompt": None}, "prompt", "must be a text"),
    ({"prompt": ""}, "prompt", "is empty"),
    ({"prompt": []}, "prompt", "is empty"),
    ({"prompt": ["a", 3]}, "prompt", "must be a text"),
    ({"prompt": [5, len(TOKENIZER)]}, "prompt", "outside the vocabulary"),
    ({"prompt": [-1]}, "prompt", "outside the vocabulary"),
    ({"prompt": "\ud800"}, "prompt", "not valid Unicode"),
    ({"model": None}, "model", "name one"),
]

CHATS: list[tuple[Mapping[str, Any], str, str]] = [
    ({"messages": []}, "messages", "at least one"),
    ({"messages": "hi"}, "messages", "must be a list"),
    ({"max_tokens": 0}, "max_tokens", "at least 1"),
    ({"messages": ["hi"]}, "messages[0]", "must be an object"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role", "must be one of"),
    ({"messages": [{"role": "user"}]}, "messages[0].content", "must be a text"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "must be a list"),
    ({"messages": [{"role": "assistant"}]}, "messages[0].content", "no tool_calls"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
        "messages[0].content",
        "text only",
    ),
    (
        {"messages": [{"role": "assistant", "tool_calls": [CALL]}]},
        "messages[0].tool_calls[0]",
        "not JSON",
    ),
    ({"tools": [{"type": "search"}]}, "tools[0]", '"type": "function"'),
    ({"tool_choice": "required"}, "tool_choice", "use auto or none"),
    ({"tool_choice": "auto"}, "tool_choice", "needs tools"),
    ({"response_format": {"type": "json_schema"}}, "response_format", "not constrained"),
    ({"top_logprobs": 3}, "top_logprobs", "needs logprobs=true"),
    ({"parallel_tool_calls": False}, "parallel_tool_calls", "not supported"),
    ({"modalities": ["audio"]}, "modalities", "text only"),
    ({"echo": True}, "echo", "not a field"),
]


def post(running: Running, path: str, body: object, **headers: str) -> tuple[int, Any]:
    """Send what the `openai` client would refuse to send."""
    host, port = running.url.removeprefix("http://").removesuffix("/v1").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    connection.request("POST", path, data, headers)
    response = connection.getresponse()
    read = response.status, json.loads(response.read())
    connection.close()
    return read


def check_refused(found: tuple[int, Any], param: str | None, words: str) -> None:
    status, body = found
    assert status == 400
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["type"] == "invalid_request_error"
    assert body["error"]["param"] == param
    assert words in body["error"]["message"]


@pytest.mark.parametrize(("fields", "param", "words"), COMPLETIONS)
def test_a_bad_completion_is_refused(
    server: Running, fields: Mapping[str, Any], param: str, words: str
) -> None:
    body = {"model": MODEL, "prompt": "1 + 1", **fields}
    check_refused(post(server, "/v1/completions", body), param, words)


@pytest.mark.parametrize(("fields", "param", "words"), CHATS)
def test_a_bad_chat_is_refused(
    server: Running, fields: Mapping[str, Any], param: str, words: str
) -> None:
    body = {"model": MODEL, "messages": QUESTION, **fields}
    check_refused(post(server, "/v1/chat/completions", body), param, words)


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_object_is_refused(server: Running, body: bytes) -> None:
    check_refused(post(server, "/v1/completions", body), None, "JSON")


def test_harmless_fields_are_accepted(client: OpenAI) -> None:
    client.chat.completions.create(
        model=MODEL,
        messages=QUESTION,
        max_tokens=1,
        user="me",
        metadata={"run": "1"},
        store=False,
        logit_bias={},
        presence_penalty=0,
        frequency_penalty=0.0,
        response_format={"type": "text"},
        parallel_tool_calls=True,
        reasoning_effort="low",
    )


def test_what_the_context_cannot_hold_is_refused(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=f"context length is {CONTEXT}") as caught:
        client.completions.create(model=MODEL, prompt="1 + 1", max_tokens=CONTEXT)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "a b c d " * CONTEXT}]
        )
    assert caught.value.code == "context_length_exceeded"


def test_another_model_is_not_found(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).max_model_len == CONTEXT
    with pytest.raises(openai.NotFoundError) as caught:
        client.completions.create(model="gpt-4", prompt="x")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4")


def test_other_paths_and_methods_are_errors_of_the_same_shape(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="Not Found"):
        client.embeddings.create(model=MODEL, input="x")
    with pytest.raises(openai.APIStatusError) as caught:
        client.get("/completions", cast_to=object)
    assert caught.value.status_code == 405


def test_what_an_engine_cannot_do_is_refused() -> None:
    with running_server(lambda: scripted_engine("42")) as running:
        with pytest.raises(openai.BadRequestError, match="stop"):
            running.client.completions.create(model=MODEL, prompt="x", stop="4")
        with pytest.raises(openai.BadRequestError, match="cannot score") as caught:
            running.client.completions.create(model=MODEL, prompt="x", echo=True, logprobs=1)
    assert caught.value.param == "logprobs"


def test_a_key_opens_the_door_and_nothing_else_does() -> None:
    with running_server(lightning_engine, api_key="sesame") as running:
        assert running.metric("cispo_engine_active_sequences") == 0
        with pytest.raises(openai.AuthenticationError) as caught:
            running.client.models.list()
        assert caught.value.code == "invalid_api_key"
        assert "sesame" not in str(caught.value)
        client = OpenAI(base_url=running.url, api_key="sesame", max_retries=0)
        assert [model.id for model in client.models.list()] == [MODEL]
