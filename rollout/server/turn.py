"""Takes a turn of the policy apart while it is written: thoughts, content, calls of tools."""

from dataclasses import dataclass
from enum import Enum, auto

from cispo.policy.tool_calls import (
    CALLS,
    END_CALLS,
    END_THINK,
    THINK,
    ToolCall,
    ToolCallError,
    parse_tool_calls,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnDelta:
    """What a piece of text adds to a turn."""

    reasoning: str = ""
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()

    def __add__(self, other: "TurnDelta") -> "TurnDelta":
        return TurnDelta(
            reasoning=self.reasoning + other.reasoning,
            content=self.content + other.content,
            tool_calls=self.tool_calls + other.tool_calls,
        )


class _Part(Enum):
    BEGINNING = auto()
    THINKING = auto()
    CONTENT = auto()
    CALLS = auto()


class TurnReader:
    """Reads `<think>..</think>`, content and `<tool_calls>..</tool_calls>` in pieces of any size.

    What the pieces add up to does not depend on how the text was cut into them. White space beside
    tags goes with the tags. A block that holds no calls is content, as the policy wrote it.

    Args:
        is_thinking: Whether the prompt already opened the thoughts.
        has_tools: Whether there are tools to call.
    """

    def __init__(self, *, is_thinking: bool, has_tools: bool) -> None:
        self._part = _Part.THINKING if is_thinking else _Part.BEGINNING
        self._has_tools = has_tools
        self._held = ""
        self._is_after_tag = is_thinking
        self._has_content = False
        self._is_after_calls = False

    def add(self, text: str) -> TurnDelta:
        """Return what is certain after this piece."""
        self._held += text
        delta = TurnDelta()
        while True:
            part = self._part
            delta += self._read()
            if self._part is part:
                return delta

    def finish(self) -> TurnDelta:
        """Return what was held back for a tag that did not come."""
        held, self._held = self._held, ""
        match self._part:
            case _Part.THINKING:
                return TurnDelta(reasoning=held.rstrip())
            case _Part.CALLS:
                try:
                    return TurnDelta(tool_calls=parse_tool_calls(held).tool_calls)
                except ToolCallError:
                    return self._content(held)
            case _Part.BEGINNING | _Part.CONTENT:
                return self._content(held)

    def _read(self) -> TurnDelta:
        """Read on until the part of the turn changes, or more text is needed."""
        match self._part:
            case _Part.BEGINNING:
                return self._read_beginning()
            case _Part.THINKING:
                text, is_over = self._take_until(END_THINK)
                if is_over:
                    self._held = self._held[len(END_THINK) :]
                    self._enter(_Part.CONTENT)
                return TurnDelta(reasoning=text)
            case _Part.CONTENT if self._has_tools:
                text, is_over = self._take_until(CALLS)
                if is_over:
                    self._enter(_Part.CALLS)
                return self._content(text)
            case _Part.CONTENT:
                text, self._held = self._unspaced(self._held), ""
                return self._content(text)
            case _Part.CALLS:
                return self._read_calls()

    def _read_beginning(self) -> TurnDelta:
        text = self._held.lstrip()
        if text.startswith(THINK):
            self._held = text[len(THINK) :]
            self._enter(_Part.THINKING)
        elif not THINK.startswith(text):
            self._part = _Part.CONTENT
        return TurnDelta()

    def _read_calls(self) -> TurnDelta:
        """Try every end tag, as one may stand in a string of a call's arguments."""
        end = self._held.find(END_CALLS)
        while end >= 0:
            end += len(END_CALLS)
            try:
                calls = parse_tool_calls(self._held[:end]).tool_calls
            except ToolCallError:
                end = self._held.find(END_CALLS, end)
                continue
            self._held = self._held[end:]
            self._enter(_Part.CONTENT)
            self._is_after_calls = True
            return TurnDelta(tool_calls=calls)
        return TurnDelta()

    def _enter(self, part: _Part) -> None:
        self._part = part
        self._is_after_tag = True

    def _take_until(self, tag: str) -> tuple[str, bool]:
        """Take the text before a tag, or all that certainly stands before it."""
        self._held = self._unspaced(self._held)
        position = self._held.find(tag)
        if position >= 0:
            text, self._held = self._held[:position].rstrip(), self._held[position:]
            return text, True
        start = len(self._held)
        start -= next((n for n in range(len(tag) - 1, 0, -1) if self._held.endswith(tag[:n])), 0)
        start = len(self._held[:start].rstrip())
        text, self._held = self._held[:start], self._held[start:]
        return text, False

    def _unspaced(self, text: str) -> str:
        """Drop the white space after a tag."""
        if self._is_after_tag:
            text = text.lstrip()
            self._is_after_tag = not text
        return text

    def _content(self, text: str) -> TurnDelta:
        """Content after calls begins on a line of its own."""
        if not text:
            return TurnDelta()
        if self._has_content and self._is_after_calls:
            text = f"\n{text}"
        self._has_content, self._is_after_calls = True, False
        return TurnDelta(content=text)
