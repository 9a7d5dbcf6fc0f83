"""A turn is taken apart in the same way, however it is cut into pieces."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cispo.policy.tool_calls import ToolCall, parse_tool_calls
from rollout.server.turn import TurnDelta, TurnReader

CALL = '<tool_calls>\n{"name": "add", "arguments": {"a": 1, "b": "</tool_calls>"}}\n</tool_calls>'
ADD = ToolCall(name="add", arguments={"a": 1, "b": "</tool_calls>"})
TEXTS = {
    "plain": ("  plain text \n", TurnDelta(content="  plain text \n")),
    "thoughts": (
        "<think>\nhm, \n so\n</think>\n\nIt is 4.\n",
        TurnDelta(reasoning="hm, \n so", content="It is 4.\n"),
    ),
    "unfinished thoughts": ("<think>hm </thin", TurnDelta(reasoning="hm </thin")),
    "call": (f"<think>x</think>\n{CALL}", TurnDelta(reasoning="x", tool_calls=(ADD,))),
    "content and call": (
        f"I add. \n{CALL}\n",
        TurnDelta(content="I add.", tool_calls=(ADD,)),
    ),
    "content around calls": (
        f"First.\n{CALL}\nThen.\n{CALL}",
        TurnDelta(content="First.\nThen.", tool_calls=(ADD, ADD)),
    ),
    "call without an end": (CALL.removesuffix("</tool_calls>"), TurnDelta(tool_calls=(ADD,))),
    "no call": (
        "<tool_calls>\nadd 1 and 2\n</tool_calls>",
        TurnDelta(content="<tool_calls>\nadd 1 and 2\n</tool_calls>"),
    ),
    "thoughts about a call": (
        f"<think>{CALL}</think>No.",
        TurnDelta(reasoning=CALL, content="No."),
    ),
    "less than": ("a < b <tool", TurnDelta(content="a < b <tool")),
}


def read(pieces: list[str], *, is_thinking: bool = False, has_tools: bool = True) -> TurnDelta:
    reader = TurnReader(is_thinking=is_thinking, has_tools=has_tools)
    return sum((reader.add(piece) for piece in pieces), TurnDelta()) + reader.finish()


@pytest.mark.parametrize("name", TEXTS)
def test_a_turn_is_taken_apart(name: str) -> None:
    text, expected = TEXTS[name]
    assert read([text]) == expected
    assert read(list(text)) == expected


@given(st.sampled_from(sorted(TEXTS)), st.lists(st.integers(0, 200), max_size=8), st.booleans())
def test_the_pieces_do_not_matter(name: str, cuts: list[int], has_tools: bool) -> None:
    text, _ = TEXTS[name]
    ends = [0, *sorted(cuts), len(text)]
    pieces = [text[start:end] for start, end in pairwise(ends)]
    assert read(pieces, has_tools=has_tools) == read([text], has_tools=has_tools)


PARTS = ["<think>", "</think>", "<tool_calls>", "</tool_calls>", '{"name": "f"}', " ", "\n", "a <"]


@given(st.lists(st.sampled_from(PARTS), max_size=10).map("".join), st.booleans())
def test_nothing_is_lost_or_invented_whatever_the_tags(text: str, has_tools: bool) -> None:
    whole = read([text], has_tools=has_tools)
    assert read(list(text), has_tools=has_tools) == whole
    if not has_tools and "<think>" not in text:
        assert whole == TurnDelta(content=text)


@pytest.mark.parametrize("name", ["thoughts", "call", "content and call", "content around calls"])
def test_what_streams_is_what_the_parser_of_whole_turns_finds(name: str) -> None:
    text, _ = TEXTS[name]
    parsed, streamed = parse_tool_calls(text), read(list(text))
    assert streamed.reasoning == (parsed.thinking or "")
    assert streamed.content.strip() == parsed.content
    assert streamed.tool_calls == parsed.tool_calls


def test_a_prompt_may_have_opened_the_thoughts() -> None:
    assert read(["hm", "</think>", " 4"], is_thinking=True) == TurnDelta(
        reasoning="hm", content="4"
    )


def test_without_tools_a_call_is_only_text() -> None:
    assert read([CALL], has_tools=False) == TurnDelta(content=CALL)


def test_content_passes_at_once_and_a_beginning_of_a_tag_waits() -> None:
    reader = TurnReader(is_thinking=False, has_tools=True)
    assert reader.add("a b") == TurnDelta(content="a b")
    assert reader.add(" <to") == TurnDelta()
    assert reader.add("p") == TurnDelta(content=" <top")
