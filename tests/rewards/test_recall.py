"""Answers to questions about long prompts, by hand."""

from typing import Any

import pytest

from rewards.recall import grade_recall, said
from rewards.truth import BadTruthError
from rewards.votes import vote

POEM = {"form": "components", "parts": ["red as fire", "petals layered", "soft"]}
PIECE = {"form": "verbatim", "prefix": "aB3", "text": "abcd"}
COUNTS = {"form": "counts", "counts": [3, 8, 5]}


@pytest.mark.parametrize(
    ("truth", "answer", "score"),
    [
        ({"form": "contains", "parts": ["1234567"]}, "It is 1234567.", 1.0),
        ({"form": "contains", "parts": ["1234567"]}, "It is 123456.", 0.0),
        (POEM, "red as fire\npetals layered\nsoft", 1.0),
        (POEM, "red as fire, soft", 2 / 3),
        (POEM, "Sorry: red as fire, petals layered, soft", 0.0),
        (PIECE, "aB3abcd", 1.0),
        (PIECE, "abcd", 0.0),
        (PIECE, "Here: aB3abcd", 0.0),
        (PIECE, "aB3ab", 2 * 2 / 6),  # difflib: twice the matches over the sum of the lengths
        (PIECE, "aB3", 0.0),
        ({"form": "value", "value": "[1, 2]"}, "so <answer>[1,2]</answer>", 1.0),
        ({"form": "value", "value": "[1, 2]"}, "<answer>[2, 1]</answer>", 0.0),
        ({"form": "value", "value": "7"}, "<answer>`7`</answer>", 1.0),
        ({"form": "value", "value": "1"}, "<answer>True</answer>", 0.0),
        ({"form": "value", "value": "7"}, "__import__('os')", 0.0),
        (COUNTS, "They are [3, 8, 5].", 1.0),
        (COUNTS, "First [1, 2], then [3, 5]", 2 / 3),
        (COUNTS, "[5, 8, 3]", 0.75),  # all of them in another order is not a full score
        (COUNTS, str(list(range(30))), 0.1),  # three of thirty that were listed
        (COUNTS, "none", 0.0),
        ({"form": "letter", "letter": "C"}, "**The correct answer is (C)**", 1.0),
        ({"form": "letter", "letter": "C"}, "The correct answer is A.", 0.0),
        ({"form": "letter", "letter": "C"}, "C", 0.0),
    ],
)
def test_hand_graded_answers(truth: dict[str, Any], answer: str, score: float) -> None:
    graded = grade_recall(answer, truth)
    assert graded["score"] == pytest.approx(score)
    assert graded["correct"] == float(score == 1.0)


@pytest.mark.parametrize(
    "truth",
    [{}, {"form": "song"}, {"form": "contains", "parts": []}, {"form": "value", "value": "x"}],
)
def test_a_truth_that_cannot_be_read_is_nobodys_wrong_answer(truth: dict[str, Any]) -> None:
    with pytest.raises(BadTruthError):
        grade_recall("7", truth)


def test_equal_answers_vote_alike() -> None:
    answer = {"answer": "1"}
    assert vote("math", r"so \boxed{ \frac{1}{2} }", answer) == vote(
        "math", r"\boxed{\frac12}", answer
    )
    assert vote("math", "The answer is 7.", answer) == vote("math", "#### 7", answer) == "7"
    assert vote("math", "so 3 + 4 = 7", answer) == "7"
    assert vote("math", r"<think>\boxed{1}</think> \boxed{2}", answer) == "2"
    assert vote("logic", "<answer> a  b </answer>", {}) == "a b"
    assert vote("recall", "<think>x</think>The correct answer is (B).", {"form": "letter"}) == "B"
    assert vote("code", "print(1)", {}) is None
    assert said("no list", {"form": "counts"}) is None
    assert said("[1,  2]", {"form": "counts"}) == "[1, 2]"
    assert said("nothing", {"form": "value"}) is None
