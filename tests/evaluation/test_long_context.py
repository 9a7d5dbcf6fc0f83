"""Long prompts: pure in seed and row, of the length asked for, with the answer that they name."""

import contextlib
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cispo.config import SourceConfig
from cispo.data.build import open_table
from cispo.data.long_context.family import LongContextFamily
from cispo.data.long_context.files import components
from cispo.data.long_context.length import middle_cut, token_count
from cispo.errors import ConfigError, TaskFileError
from cispo.policy.load import bundled_tokenizer
from cispo.types import Task

FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "needle": {"needles": 3},
    "mr_niah": {},
    "mrcr": {"needles": 4},
    "latent_list": {"operations": 5},
    "counting": {"needles": 6},
}


def made(name: str, row: int = 0, *, tokens: int = 1500, **options: Any) -> Task:
    return LongContextFamily(name, 100, 7, {"tokens": tokens, **options})[row]


def text_of(task: Task) -> str:
    return "\n".join(message.content for message in task.messages)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_row_depends_on_its_number_and_the_options_alone(name: str) -> None:
    one = LongContextFamily(name, 100, 7, {"tokens": 1500, **FAMILIES[name]})
    other = LongContextFamily(name, 50, 9, {"tokens": 1500, **FAMILIES[name]})
    assert one[2] == other[0]
    assert one[2].task_id == other[0].task_id
    assert one[2].messages != one[3].messages


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("tokens", [1200, 8000])
def test_a_prompt_fills_its_length_and_never_exceeds_it(name: str, tokens: int) -> None:
    task = made(name, tokens=tokens, **FAMILIES[name])
    length = sum(token_count(None)(message.content) for message in task.messages)
    assert tokens - 200 < length <= tokens


def test_a_tokenizer_may_count() -> None:
    folder = str(bundled_tokenizer("bpe1024"))
    task = made("needle", tokens=600, tokenizer=folder)
    assert 500 < token_count(folder)(text_of(task)) <= 600


def test_the_last_statement_prints_what_the_truth_says() -> None:
    for row in range(12):
        task = made("latent_list", row, tokens=700, operations=20)
        program = text_of(task).split("\n\n", 1)[1].rsplit("\n\n", 1)[0]
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(program, {})
        assert printed.getvalue().splitlines()[-1] == task.truth["value"]
        assert task.solution == f"<answer>{task.truth['value']}</answer>"


def test_the_needle_goes_from_the_beginning_to_the_end() -> None:
    places = []
    for row in range(11):
        task = LongContextFamily("needle", 11, 0, {"tokens": 4000})[row]
        text, number = text_of(task), task.truth["parts"][0]  # type: ignore[index]
        assert text.count(number) == 1
        places.append(text.index(number) / len(text))
    assert places == sorted(places)
    assert places[0] < 0.05
    assert places[-1] > 0.9
    assert places[5] == pytest.approx(0.5, abs=0.05)


def test_other_needles_hide_other_numbers() -> None:
    task = made("needle", tokens=1500, needles=3)
    facts = re.findall(r"special number of (\w+) is (\d+)", text_of(task))
    asked = re.search(r"special number of (\w+) in", text_of(task))
    assert asked is not None
    assert len(facts) == 3
    assert dict(facts)[asked[1]] == task.solution


def test_the_counts_are_those_of_the_text_in_order() -> None:
    task = made("counting", needles=6)
    found = [int(number) for number in re.findall(r"counted (\d+) lanterns", text_of(task))]
    assert found == task.truth["counts"]
    assert str(found) == task.solution


@pytest.mark.parametrize("needles", [2, 4, 8])
def test_the_wanted_piece_is_the_one_that_the_number_says(needles: int) -> None:
    task = made("mrcr", 3, tokens=3000, needles=needles)
    *turns, ask = [message.content for message in task.messages]
    match = re.fullmatch(r"Put (\w+) directly before the (\d)\w\w (.+) about (\w+) and .*", ask)
    assert match is not None
    prefix, number, form, topic = match.groups()
    pairs = list(zip(turns[::2], turns[1::2], strict=True))
    same = [text for question, text in pairs if question.endswith(f" {form} about {topic}.")]
    assert len(same) == needles == len(set(same))
    assert task.solution == prefix + same[int(number) - 1]
    near = [question for question, _ in pairs if (form in question) != (topic in question)]
    assert near, "others share the form or the topic"


def test_the_three_needles_of_a_dialogue_lie_at_its_quarters() -> None:
    for row in range(4):
        task = made("mr_niah", row, tokens=6000)
        *turns, ask = [message.content for message in task.messages]
        match = re.fullmatch(
            r"Please repeat the (first|second) poem that you .* about (\w+)\.", ask
        )
        assert match is not None
        questions, texts = turns[::2], turns[1::2]
        places = [
            i
            for i, question in enumerate(questions)
            if question.endswith(f" poem about {match[2]}.")
        ]
        assert len(places) == 2
        wanted = texts[places[match[1] == "second"]]
        assert task.solution == wanted
        assert task.truth["parts"] == [line.rstrip(".") for line in wanted.splitlines()]
        quarters = [i / len(questions) for i in places]
        assert all(min(abs(q - near) for near in (0.25, 0.5, 0.75)) < 0.08 for q in quarters)


def test_the_haystack_may_be_a_local_file(tmp_path: Path) -> None:
    text, dialogue = tmp_path / "hay.txt", tmp_path / "turns.jsonl"
    text.write_text("Straw lies here. More straw lies there! Is this straw? " * 3)
    assert "Is this straw? Straw lies here." in text_of(made("needle", haystack=str(text)))
    dialogue.write_text('{"user": "Is it late?", "assistant": "It is never late."}\n')
    assert "It is never late." in text_of(made("mr_niah", haystack=str(dialogue)))
    half = tmp_path / "half.jsonl"
    half.write_text('{"user": "Is it late?"}\n')
    with pytest.raises(TaskFileError, match=r"half.jsonl, line 1.*assistant"):
        made("mrcr", haystack=str(half))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("needel", {"tokens": 100}, "there are needle"),
        ("needle", {}, "length of a prompt"),
        ("needle", {"tokens": 2000, "neddles": 1}, "no such option"),
        ("needle", {"tokens": 0}, "whole number"),
        ("needle", {"tokens": 20}, "alone have"),
        ("needle", {"tokens": 2000, "haystack": "/no/such"}, "no such file"),
        ("needle", {"tokens": 2000, "tokenizer": "/no/such"}, "tokenizer.json"),
        ("counting", {"tokens": 2000, "needles": 99}, "<= 20"),
    ],
)
def test_what_cannot_be_made_is_refused(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        LongContextFamily(name, 10, 0, options)


def test_labels_have_the_components_of_the_published_scorer() -> None:
    assert components("1. Plum\n2. Pear\n3. Fig") == ["Plum", "Pear", "Fig"]
    assert components("Wide, grey.\nSalt on it, foam.") == ["Wide", "grey", "Salt on it", "foam"]
    assert components("One, two.\nThree.\nFour, five.") == ["One, two", "Three", "Four, five"]
    assert components("蓝，白。") == ["蓝", "白"]


def test_the_middle_is_cut_and_both_ends_stay() -> None:
    text = "".join(f"{i:05d} " for i in range(4000))
    cut = middle_cut(text, 1000, token_count(None))
    assert token_count(None)(cut) == pytest.approx(1000, abs=1)
    assert (cut[:5], cut[-6:]) == ("00000", text[-6:])
    assert middle_cut("short", 1000, token_count(None)) == "short"


def test_a_bad_row_of_a_public_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"label": "x"}\n')
    source = SourceConfig(kind="long_context_file", name=str(path), options={"format": "mr_niah"})
    with pytest.raises(TaskFileError, match=r"bad.jsonl, line 1.*messages"):
        open_table(source)
    source.options = {"format": "no"}
    with pytest.raises(ConfigError, match="openai_mrcr"):
        open_table(source)
