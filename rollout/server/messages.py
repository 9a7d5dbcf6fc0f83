"""Reads the conversation of a chat request: messages, tools, and calls of tools."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cispo.policy.tool_calls import END_THINK, THINK, ToolCall, render_tool_calls
from cispo.types import Message, Role
from rollout.server.errors import bad_request
from rollout.server.fields import Fields

_ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """What the policy reads before its turn.

    Attributes:
        messages: At least one.
        tools: Function tools as the request has them; empty where none may be called.
    """

    messages: Sequence[Message]
    tools: Sequence[Mapping[str, object]]


def read_conversation(fields: Fields) -> Conversation:
    """Read the messages and tools of a request.

    Raises:
        ApiError: Something in them is not text, a function tool, or a call of one.
    """
    entries = fields.items("messages")
    if not entries:
        raise bad_request("messages: at least one is needed", param="messages")
    names: dict[str, str] = {}
    messages = [_message(entry, f"messages[{i}]", names) for i, entry in enumerate(entries)]
    return Conversation(messages=messages, tools=_tools(fields))


def _message(entry: object, path: str, names: dict[str, str]) -> Message:
    """Read one message; `names` collects the names of called tools by the ids of their calls."""
    if not isinstance(entry, dict):
        raise bad_request(f"{path}: must be an object", param=path)
    fields = Fields(entry, path=f"{path}.")
    role = _ROLES.get(fields.text("role") or "")
    if role is None:
        raise fields.error("role", f"must be one of {', '.join(_ROLES)}")
    content = _content(fields)
    name = fields.text("name")
    match role:
        case "assistant":
            content = _assistant_content(fields, content, names)
        case _ if content is None:
            raise fields.error("content", "must be a text or a list of text parts")
        case "tool":
            name = name or names.get(fields.text("tool_call_id") or "")
    fields.refuse_unread({"refusal", "annotations", "audio", "function_call"})
    return Message(role=role, content=content or "", name=name)


def _content(fields: Fields) -> str | None:
    value = fields.get("content")
    if value is None or isinstance(value, str):
        return fields.text("content")
    texts = []
    for part in fields.items("content"):
        if not isinstance(part, dict) or part.get("type") != "text":
            raise fields.error("content", "has a part that is no text; the policy reads text only")
        text = part.get("text")
        if not isinstance(text, str):
            raise fields.error("content", "has a text part without a text")
        texts.append(fields.encodable("content", text))
    return "".join(texts)


def _assistant_content(fields: Fields, content: str | None, names: dict[str, str]) -> str:
    """Put a past turn together again as the policy wrote it: thoughts, content, calls."""
    thoughts = fields.text("reasoning_content")
    calls = [
        _call(call, f"tool_calls[{i}]", fields, names)
        for i, call in enumerate(fields.items("tool_calls"))
    ]
    if content is None and not calls:
        raise fields.error("content", "is missing, and there are no tool_calls either")
    thinking = f"{THINK}\n{thoughts}\n{END_THINK}" if thoughts else ""
    return "\n".join(filter(None, (thinking, content, render_tool_calls(calls))))


def _call(call: object, path: str, message: Fields, names: dict[str, str]) -> ToolCall:
    function = call.get("function") if isinstance(call, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict) or not isinstance(name, str):
        raise message.error(path, "must be a call of a function with a name")
    try:
        arguments = json.loads(str(function.get("arguments") or "{}"))
    except ValueError as error:
        raise message.error(path, f"has arguments that are not JSON: {error}") from error
    if not isinstance(arguments, dict):
        raise message.error(path, "has arguments that are not an object")
    names[str(call.get("id"))] = name
    return ToolCall(name=name, arguments=arguments)


def _tools(fields: Fields) -> list[Mapping[str, object]]:
    """Read the tools that the policy may call; with tool_choice=none there are none."""
    tools = [_tool(tool, f"tools[{i}]") for i, tool in enumerate(fields.items("tools"))]
    choice = fields.get("tool_choice")
    if choice not in (None, "auto", "none"):
        raise fields.error(
            "tool_choice", "is not supported: decoding is not constrained; use auto or none"
        )
    if choice == "auto" and not tools:
        raise fields.error("tool_choice", "needs tools")
    return [] if choice == "none" else tools


def _tool(tool: object, path: str) -> Mapping[str, object]:
    function = tool.get("function") if isinstance(tool, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if not isinstance(tool, dict) or tool.get("type") != "function" or not isinstance(name, str):
        raise bad_request(
            f'{path}: must be {{"type": "function", "function": {{"name": ..}}}}', param=path
        )
    return tool
