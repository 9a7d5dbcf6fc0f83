"""Conversations to prompt tokens, and sampled tokens to text."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jinja2
from transformers import PreTrainedTokenizerBase

from cispo.errors import ConfigError
from cispo.types import Message

MINIMAX_M1_TEMPLATE = Path(__file__).parent / "tokenizers" / "minimax_m1_template.jinja"
"""MiniMax-M1's layout with tools, for any tokenizer: copy it to a folder's chat_template.jinja."""

_END_TOKENS = (
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "<end_of_sentence>",
    "<end_of_document>",
)
"""Tokens that end a turn or a text in the chat formats of common models."""

_PROBE = "probe of the template"

Turn = dict[str, Any]
Tool = Mapping[str, object]


def render_prompt(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, tools: Sequence[Tool] = ()
) -> list[int]:
    """Render a conversation up to and including the header of the assistant's next turn.

    Args:
        tokenizer: With a chat template.
        messages: The conversation.
        tools: Functions that the assistant may call, `{"type": "function", "function": {"name": ..,
            "description": .., "parameters": <JSON schema>}}`.

    Raises:
        ConfigError: The tokenizer has no chat template, or one that refuses the messages or leaves
            out the tools.
    """
    turns = _turns(tokenizer, messages)
    text = _render(tokenizer, turns, tools=tools, opens_next=True)
    for tool in tools:
        if _tool_name(tool) not in text:
            raise ConfigError(
                f"policy.path: the chat template of {tokenizer.name_or_path} leaves out tools such "
                f"as {_tool_name(tool)}; use one that lists them, for example "
                f"{MINIMAX_M1_TEMPLATE.name}"
            )
    return _encode(tokenizer, text)


def render_continuation(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]
) -> list[int]:
    """Render what follows a sampled turn: messages such as tool results, and the next header.

    Nothing sampled is tokenised again: the result goes behind the sampled tokens, the last of which
    is the one that ended the turn. What the messages say is encoded as mere text, so that a program
    cannot end its turn or speak in another role by printing what stands for a special token.

    Raises:
        ConfigError: The chat template leaves out a message, or renders a turn in another way when
            something follows it.
    """
    marks = [f"{_PROBE} {index}." for index in range(len(messages))]
    asked = [Message(role="user", content="?"), Message(role="assistant", content=_PROBE)]
    said = [replace(m, content=mark) for m, mark in zip(messages, marks, strict=True)]
    alone = _render(tokenizer, _turns(tokenizer, asked), opens_next=False)
    followed = _render(tokenizer, _turns(tokenizer, [*asked, *said]), opens_next=True)
    position = alone.rindex(_PROBE) + len(_PROBE)
    ids: list[int] = []
    for message, mark in zip(messages, marks, strict=True):
        found = followed.find(mark, position)
        if found < 0:
            raise _cannot_go_on(tokenizer, f"leaves out turns of {message.role}")
        ids += _encode(tokenizer, followed[position:found])
        ids += _encode(tokenizer, message.content, is_mere_text=True)
        position = found + len(mark)
    ids += _encode(tokenizer, followed[position:])
    if not followed.startswith(alone) or ids[0] not in stop_token_ids(tokenizer):
        raise _cannot_go_on(tokenizer, "changes past turns, or ends them without an end token")
    return ids[1:]


def _cannot_go_on(tokenizer: PreTrainedTokenizerBase, reason: str) -> ConfigError:
    return ConfigError(
        f"policy.path: the chat template of {tokenizer.name_or_path} cannot go on after a sampled "
        f"turn: it {reason}"
    )


def stop_token_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Tokens that end the assistant's turn: the tokenizer's own end and known ends it contains.

    Raises:
        ConfigError: There is none, so that no turn would ever end.
    """
    vocabulary = tokenizer.get_vocab()
    stops = {vocabulary[token] for token in _END_TOKENS if token in vocabulary}
    if tokenizer.eos_token_id is not None:
        stops.add(tokenizer.eos_token_id)
    if not stops:
        raise ConfigError(
            f"policy.path: the tokenizer {tokenizer.name_or_path} names no end of turn; set "
            "eos_token in its tokenizer_config.json"
        )
    return frozenset(stops)


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Text of tokens, special ones such as `<think>` included, with spaces left as they are."""
    text: str = tokenizer.decode(
        list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    return text


def _turns(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[Turn]:
    takes_parts = _takes_parts(tokenizer)
    turns: list[Turn] = []
    for message in messages:
        content = _parts(message.content, message.name) if takes_parts else message.content
        turns.append({"role": message.role, "content": content})
        if message.name is not None:
            turns[-1]["name"] = message.name
    return turns


def _takes_parts(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the template wants content as a list of parts, as MiniMax-M1's own does."""
    try:
        text = _apply(tokenizer, [{"role": "user", "content": _PROBE}], opens_next=False)
    except (jinja2.TemplateError, TypeError):
        return True
    return _PROBE not in text


def _parts(text: str, name: str | None = None) -> list[dict[str, str]]:
    part = {"type": "text", "text": text}
    return [part if name is None else {**part, "name": name}]


def _render(
    tokenizer: PreTrainedTokenizerBase,
    turns: Sequence[Turn],
    *,
    opens_next: bool,
    tools: Sequence[Tool] = (),
) -> str:
    try:
        return _apply(tokenizer, turns, tools=tools, opens_next=opens_next)
    except (jinja2.TemplateError, TypeError) as error:
        raise ConfigError(
            f"policy.path: the chat template of {tokenizer.name_or_path} refuses a conversation: "
            f"{error}"
        ) from error


def _apply(
    tokenizer: PreTrainedTokenizerBase,
    turns: Sequence[Turn],
    *,
    opens_next: bool,
    tools: Sequence[Tool] = (),
) -> str:
    if tokenizer.chat_template is None:
        raise ConfigError(
            f"policy.path: the tokenizer {tokenizer.name_or_path} has no chat template; put a "
            "chat_template.jinja beside its tokenizer.json"
        )
    text: str = tokenizer.apply_chat_template(
        list(turns),
        tools=[dict(tool) for tool in tools] or None,
        add_generation_prompt=opens_next,
        tokenize=False,
    )
    return text


def _encode(
    tokenizer: PreTrainedTokenizerBase, text: str, *, is_mere_text: bool = False
) -> list[int]:
    ids: list[int] = tokenizer.encode(
        text, add_special_tokens=False, split_special_tokens=is_mere_text
    )
    return ids


def _tool_name(tool: Tool) -> str:
    function = tool.get("function", tool)
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str):
        raise ConfigError(f"tools: {tool!r} has no function with a name")
    return name
