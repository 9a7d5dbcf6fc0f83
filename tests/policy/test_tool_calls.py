import json

import pytest

from cispo.policy.tool_calls import (
    ParsedTurn,
    ToolCall,
    ToolCallError,
    parse_tool_calls,
    render_tool_calls,
)

WEATHER = ToolCall(name="get_weather", arguments={"city": "Shanghai", "days": 3})
SEARCH = ToolCall(name="search", arguments={"query": "天气 {today}", "options": {"deep": [1, {}]}})

TURN = """<think>
The user wants the weather.
</think>

I will look it up.
<tool_calls>
{"name": "get_weather", "arguments": {"city": "Shanghai", "days": 3}}
{"name": "search", "arguments": {"query": "天气 {today}", "options": {"deep": [1, {}]}}}
</tool_calls>"""


def test_a_turn_is_taken_apart():
    assert parse_tool_calls(TURN) == ParsedTurn(
        thinking="The user wants the weather.",
        content="I will look it up.",
        tool_calls=(WEATHER, SEARCH),
    )


def test_a_rendered_call_is_one_line_of_the_published_format():
    assert render_tool_calls([WEATHER, SEARCH]) == (
        "<tool_calls>\n"
        '{"name": "get_weather", "arguments": {"city": "Shanghai", "days": 3}}\n'
        '{"name": "search", "arguments": '
        '{"query": "天气 {today}", "options": {"deep": [1, {}]}}}\n'
        "</tool_calls>"
    )
    assert render_tool_calls([]) == ""


def test_any_rendered_arguments_are_read_back():
    hard = ToolCall(
        name="write",
        arguments={"text": 'a\nb "</tool_calls>" \\ \t {"name": 1}\u2028🙂', "none": None},
    )
    assert parse_tool_calls(render_tool_calls([hard, WEATHER])).tool_calls == (hard, WEATHER)


def test_a_turn_without_marks_is_content():
    assert parse_tool_calls("  It is 42. ") == ParsedTurn(
        thinking=None, content="It is 42.", tool_calls=()
    )


@pytest.mark.parametrize("end", ["", "\n"])
def test_a_missing_closing_tag_is_forgiven(end):
    assert parse_tool_calls(TURN.removesuffix("\n</tool_calls>") + end).tool_calls == (
        WEATHER,
        SEARCH,
    )


def test_text_around_and_between_blocks_is_content():
    block = render_tool_calls([WEATHER])
    turn = parse_tool_calls(f"First.\n{block}\nThen.\n{block} Done.")
    assert turn.content == "First.\nThen.\nDone."
    assert turn.tool_calls == (WEATHER, WEATHER)


@pytest.mark.parametrize(
    "written",
    [
        '{"name": "get_weather", "arguments": "{\\"city\\": \\"Shanghai\\", \\"days\\": 3}"}',
        '{"name": "get_weather",\n  "arguments": {\n    "city": "Shanghai",\n    "days": 3\n  }\n}',
        '[{"name": "get_weather", "arguments": {"city": "Shanghai", "days": 3}}]',
        '{"name": "get_weather", "arguments": {"city": "Shanghai", "days": 3}},',
        '{"arguments": {"days": 3, "city": "Shanghai"}, "name": "get_weather"}',
    ],
    ids=["string", "spread", "array", "comma", "order"],
)
def test_other_spellings_of_a_call_are_read(written):
    assert parse_tool_calls(f"<tool_calls>\n{written}\n</tool_calls>").tool_calls == (WEATHER,)


@pytest.mark.parametrize("rest", ["", ', "arguments": null', ', "arguments": ""'])
def test_a_call_may_have_no_arguments(rest):
    turn = parse_tool_calls(f'<tool_calls>\n{{"name": "now"{rest}}}\n</tool_calls>')
    assert turn.tool_calls == (ToolCall(name="now", arguments={}),)


def test_a_raw_line_break_in_a_string_is_kept():
    turn = parse_tool_calls('<tool_calls>{"name": "run", "arguments": {"code": "a\nb"}}')
    assert turn.tool_calls[0].arguments == {"code": "a\nb"}


def test_a_call_that_is_only_thought_of_is_none():
    turn = parse_tool_calls(f"<think>\nMaybe {render_tool_calls([WEATHER])}?\n</think>\nNo.")
    assert turn.tool_calls == ()
    assert turn.content == "No."
    assert turn.thinking.startswith("Maybe <tool_calls>")


def test_thinking_may_lack_either_tag():
    opened_in_the_prompt = parse_tool_calls("hm\n</think>\n\nYes.")
    assert (opened_in_the_prompt.thinking, opened_in_the_prompt.content) == ("hm", "Yes.")
    cut_off = parse_tool_calls('<think>\nI call <tool_calls>{"na')
    assert cut_off == ParsedTurn(thinking='I call <tool_calls>{"na', content="", tool_calls=())
    empty = parse_tool_calls("<think>\n</think>\nYes.")
    assert (empty.thinking, empty.content) == ("", "Yes.")


def test_a_call_about_the_end_of_thoughts_is_not_taken_for_one():
    call = ToolCall(name="write", arguments={"text": "</think>"})
    assert parse_tool_calls(render_tool_calls([call])) == ParsedTurn(
        thinking=None, content="", tool_calls=(call,)
    )


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"name": "f", "arguments": {"x": 1}', "is not JSON"),
        ("f(x=1)", "is not JSON"),
        ("17", "is not an object"),
        ('{"arguments": {}}', "has no 'name'"),
        ('{"name": 3, "arguments": {}}', "has no 'name'"),
        ('{"name": "f", "arguments": [1]}', "not an object"),
        ('{"name": "f", "arguments": "x=1"}', "'arguments' that are not JSON"),
        ('{"name": "f", "arguments": "[1]"}', "not an object"),
        ('{"name": "f", "arguments": false}', "not an object"),
    ],
)
def test_what_is_no_call_is_quoted_with_its_line(line, reason):
    good = json.dumps({"name": "f", "arguments": {}})
    with pytest.raises(ToolCallError) as error:
        parse_tool_calls(f"<think>a\nb</think>\n<tool_calls>\n{good}\n{line}\n</tool_calls>")
    assert str(error.value).startswith(f"line 5 of the turn: {line!r} ")
    assert reason in str(error.value)


def test_an_error_quotes_no_more_than_the_beginning_of_a_long_line():
    with pytest.raises(ToolCallError) as error:
        parse_tool_calls("<tool_calls>\n" + "x" * 5000)
    assert len(str(error.value)) < 250


def test_endless_nesting_is_an_error_like_any_other():
    with pytest.raises(ToolCallError, match="line 2"):
        parse_tool_calls("<tool_calls>\n" + "[" * 100_000)
