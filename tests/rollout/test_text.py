"""Tokens become text piece by piece, and the pieces are the text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cispo.policy.load import bundled_tokenizer, load_tokenizer
from rollout.text import Detokenizer, StopFilter, before_stop

TOKENIZER = load_tokenizer(str(bundled_tokenizer("bpe1024")))
EURO = TOKENIZER.encode("€", add_special_tokens=False)


def pieces(token_ids: list[int]) -> list[str]:
    detokenizer = Detokenizer(TOKENIZER)
    return [*(detokenizer.add([token]) for token in token_ids), detokenizer.finish()]


def test_a_character_of_several_tokens_comes_whole() -> None:
    assert len(EURO) == 3
    assert pieces(EURO) == ["", "", "€", ""]
    assert "".join(pieces(TOKENIZER.encode("a€b 🙂🙂 ü"))) == "a€b 🙂🙂 ü"


def test_a_character_that_never_ends_comes_out_as_unknown() -> None:
    assert pieces(EURO[:2]) == ["", "", "\ufffd"]
    assert "".join(pieces([*EURO[:2], *TOKENIZER.encode("x")])) == "\ufffdx"


def test_bytes_that_are_no_characters_are_not_held_back_for_ever() -> None:
    assert any(pieces([EURO[1]] * 6)[:-1])


@given(st.text(max_size=40))
def test_the_pieces_are_the_text(text: str) -> None:
    ids = TOKENIZER.encode(text, add_special_tokens=False)
    assert "".join(pieces(ids)) == TOKENIZER.decode(ids, clean_up_tokenization_spaces=False)


@given(st.lists(st.integers(0, len(TOKENIZER) - 1), max_size=40))
def test_the_pieces_of_any_tokens_are_their_text(ids: list[int]) -> None:
    assert "".join(pieces(ids)) == TOKENIZER.decode(ids, clean_up_tokenization_spaces=False)


def passed(chunks: list[str], stop: list[str]) -> list[str]:
    stop_filter = StopFilter(stop)
    return [*(stop_filter.add(chunk) for chunk in chunks), stop_filter.finish()]


def test_nothing_of_a_stop_text_gets_through() -> None:
    assert passed(["a E", "N", "D b"], ["END"]) == ["a ", "", "", ""]
    assert passed(["xEND", "more"], ["never", "END"]) == ["x", "", ""]


def test_a_false_start_of_a_stop_text_is_delayed_and_not_lost() -> None:
    assert passed(["a E", "N", "T"], ["END"]) == ["a ", "", "ENT", ""]
    assert passed(["a EN"], ["END"]) == ["a ", "EN"]


def test_without_a_stop_text_everything_passes_at_once() -> None:
    assert passed(["a", "b"], []) == ["a", "b", ""]


@given(st.text("ab", max_size=30), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_what_passes_stands_before_the_first_stop_text_that_ends(
    text: str, stop: list[str]
) -> None:
    ends = [i for i in range(len(text) + 1) if any(text[:i].endswith(s) for s in stop)]
    expected = before_stop(text[: ends[0]], stop) if ends else text
    assert "".join(passed(list(text), stop)) == expected


@pytest.mark.parametrize(("stop", "kept"), [(["b"], "a"), (["c", "bc"], "a"), ([], "abc")])
def test_the_first_stop_text_counts(stop: list[str], kept: str) -> None:
    assert before_stop("abc", stop) == kept
