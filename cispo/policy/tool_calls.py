"""MiniMax-M1's function calls: parse what the policy wrote, render what it would have written."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

THINK, END_THINK = "<think>", "</think>"
CALLS, END_CALLS = "<tool_calls>", "</tool_calls>"

_DECODER = json.JSONDecoder(strict=False)
"""Models write raw line breaks into JSON strings, which strict decoding refuses."""

_SHOWN = 80
"""Characters of a bad line that an error quotes."""


class ToolCallError(ValueError):
    """A turn's tool calls cannot be read; the message quotes the line and its number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """One call of a function by the policy."""

    name: str
    arguments: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedTurn:
    """A turn of the policy, taken apart.

    Attributes:
        thinking: What stands between `<think>` and `</think>`, or None where it did not think.
        content: All other text outside of calls, without white space around it.
        tool_calls: The calls in their order.
    """

    thinking: str | None
    content: str
    tool_calls: tuple[ToolCall, ...]


def parse_tool_calls(text: str) -> ParsedTurn:
    r"""Take a turn apart: `<think>..</think>`, then text and `<tool_calls>` with JSON objects.

    A call is `{"name": .., "arguments": {..}}`, usually one a line; arguments may also be such an
    object written as a string, or be left out. Thinking may lack its opening tag, which some
    templates put into the prompt, or its end, where a budget cut it off; calls that the policy
    merely thinks about are none. The last `</tool_calls>` may be missing.

    Args:
        text: A sampled turn without the token that ended it.

    Raises:
        ToolCallError: What stands between the tags is no call.
    """
    thinking, position = _thinking(text)
    content: list[str] = []
    calls: list[ToolCall] = []
    while (opening := text.find(CALLS, position)) >= 0:
        content.append(text[position:opening].strip())
        position = _read_calls(text, opening + len(CALLS), calls)
    content.append(text[position:].strip())
    return ParsedTurn(
        thinking=thinking, content="\n".join(filter(None, content)), tool_calls=tuple(calls)
    )


def render_tool_calls(calls: Iterable[ToolCall]) -> str:
    """Write calls as M1 does, one JSON object a line between its tags; nothing for no calls."""
    lines = [
        json.dumps({"name": call.name, "arguments": dict(call.arguments)}, ensure_ascii=False)
        for call in calls
    ]
    return "\n".join([CALLS, *lines, END_CALLS]) if lines else ""


def _thinking(text: str) -> tuple[str | None, int]:
    """The thoughts, and where the rest of the turn begins."""
    start = len(text) - len(text.lstrip())
    if text.startswith(CALLS, start):
        return None, 0
    is_opened = text.startswith(THINK, start)
    start += len(THINK) * is_opened
    end = text.find(END_THINK, start)
    if end >= 0:
        return text[start:end].strip(), end + len(END_THINK)
    return (text[start:].strip(), len(text)) if is_opened else (None, 0)


def _read_calls(text: str, position: int, calls: list[ToolCall]) -> int:
    """Append the calls of a block that begins at `position`; return where the text goes on."""
    while True:
        while position < len(text) and (text[position].isspace() or text[position] == ","):
            position += 1
        if position == len(text):
            return position
        if text.startswith(END_CALLS, position):
            return position + len(END_CALLS)
        try:
            value, end = _DECODER.raw_decode(text, position)
        except (ValueError, RecursionError) as error:  # also a number too long to read
            raise _error(text, position, f"is not JSON: {error}") from error
        calls += [_call(item, text, position) for item in _items(value)]
        position = end


def _items(value: object) -> list[object]:
    """Some models write the calls as one array."""
    return value if isinstance(value, list) else [value]


def _call(value: object, text: str, position: int) -> ToolCall:
    if not isinstance(value, dict):
        raise _error(text, position, 'is not an object {"name": .., "arguments": {..}}')
    name = value.get("name")
    if not isinstance(name, str) or not name:
        raise _error(text, position, "has no 'name' of a function")
    arguments = value.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = _DECODER.decode(arguments) if arguments.strip() else None
        except (ValueError, RecursionError) as error:  # also a number too long to read
            raise _error(text, position, f"has 'arguments' that are not JSON: {error}") from error
    if not isinstance(arguments, dict | None):
        raise _error(text, position, "has 'arguments' that are not an object")
    return ToolCall(name=name, arguments=arguments or {})


def _error(text: str, position: int, reason: str) -> ToolCallError:
    number = text.count("\n", 0, position) + 1
    line = text[position:].partition("\n")[0].rstrip()
    shown = line if len(line) <= _SHOWN else f"{line[:_SHOWN]}..."
    return ToolCallError(f"line {number} of the turn: {shown!r} {reason}")
