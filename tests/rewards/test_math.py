"""Mathematical equality: our own cases, and those of other projects where they are at hand."""

from typing import Any

import pytest

from rewards.extract import math_answer
from rewards.math import grade_math
from rewards.truth import BadTruthError


def is_correct(text: str, reference: str) -> bool:
    return grade_math(math_answer(text), {"answer": reference})["correct"] == 1.0


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        (r"\boxed{42}", "42"),
        ("<think>40+2</think>42", "42"),
        ("The answer is 42.", "42"),
        (r"\boxed{\frac{1}{2}}", "0.5"),
        (r"\boxed{0.5}", r"\frac{1}{2}"),
        (r"\boxed{1,000}", "1000"),
        (r"\boxed{2x+2}", "2(x+1)"),
        (r"$x = \boxed{3}$", "3"),
        (r"\boxed{x=3}", "3"),
        (r"\boxed{\sqrt{8}}", r"2\sqrt{2}"),
        (r"\boxed{(1, 2)}", "(1,2)"),
        (r"\boxed{50\%}", r"50\%"),
        ("-7", "-7"),
    ],
)
def test_equal_answers_are_correct(text: str, reference: str) -> None:
    assert is_correct(text, reference)


@pytest.mark.parametrize(
    ("text", "reference"),
    [
        (r"\boxed{43}", "42"),
        (r"\boxed{-42}", "42"),
        (r"\boxed{}", "42"),
        ("", "42"),
        ("<think>the answer is 42", "42"),
        (r"<think>\boxed{42}</think>I do not know.", "42"),
        (r"\boxed{41} and \boxed{42}", "42"),
        (r"\boxed{41, 42, 43}", "42"),
        (r"\boxed{41 \text{ or } 42}", "42"),
        (r"\boxed{x}", "42"),
        (r"\boxed{42x}", "42"),
        (r"\boxed{(1, 2)}", "(2,1)"),
        ("42 " * 3000, "43"),
    ],
)
def test_other_answers_are_not(text: str, reference: str) -> None:
    assert not is_correct(text, reference)


@pytest.mark.parametrize("truth", [{}, {"answer": None}, {"answer": ""}])
def test_a_reference_that_cannot_be_read_is_an_error_of_its_own(truth: dict[str, Any]) -> None:
    with pytest.raises(BadTruthError):
        grade_math("42", truth)


def test_the_cases_of_math_verify_are_graded_as_its_authors_expect(
    grader_cases: list[dict[str, Any]],
) -> None:
    """Some of its cases set options that we do not, so a few may differ."""
    cases = [case for case in grader_cases if case["grader"] == "math-verify"]
    assert len(cases) == 128
    num_wrong_rewards, num_agree = 0, 0
    for case in cases:
        graded = is_correct(case["pred"], case["gold"])
        num_agree += graded is case["expected"]
        num_wrong_rewards += graded and not case["expected"]
    assert num_wrong_rewards == 0
    assert num_agree >= 122


def test_the_cases_of_other_graders_never_reward_what_they_refuse(
    grader_cases: list[dict[str, Any]],
) -> None:
    """Their conventions differ in form, so that only wrong rewards on whole pairs are compared."""
    same_conventions = ("areal gsm8k", "mathd", "rasbt", "math_dapo(minerva)", "prm800k-sympy")
    cases = [
        case
        for case in grader_cases
        if case["grader"].startswith(same_conventions) and isinstance(case["gold"], str)
    ]
    assert len(cases) > 40
    wrong = [
        case
        for case in cases
        if not case["expected"]
        and is_correct(
            case["pred"] if case["kind"] == "response" else rf"\boxed{{{case['pred']}}}",
            case["gold"],
        )
    ]
    assert not wrong
