"""Mathematical equality: our own cases, and those of other projects where they are at hand."""

from collections import Counter
from typing import Any

import pytest
from math_verify import parse, verify

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
        ("<answer>0.5</answer>", "1/2"),
        (r"<answer>\boxed{7}</answer>", "7"),
        (r"\boxed{5} no, <answer>7</answer>", "7"),
        (r"\boxed{\frac{13}{4}.}", "13/4"),
        (r"The answer is \boxed{4.}.", "4"),
        ("so " * 2000 + r"\boxed{7}" + " indeed" * 1000, "7"),
        ("1.22", "1,22"),
        ("1000", "1,000"),
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
        ("<answer></answer>42", "42"),
        ("<answer>41</answer> or 42", "42"),
        (r"\boxed{42} <answer>41</answer>", "42"),
    ],
)
def test_other_answers_are_not(text: str, reference: str) -> None:
    assert not is_correct(text, reference)


@pytest.mark.parametrize("truth", [{}, {"answer": None}, {"answer": ""}])
def test_a_reference_that_cannot_be_read_is_an_error_of_its_own(truth: dict[str, Any]) -> None:
    with pytest.raises(BadTruthError):
        grade_math("42", truth)


KNOWN_DISAGREEMENTS = {
    "math-verify": 4,
    "rasbt ch03": 1,
    "molt geo3k": 1,
    "torchforge MathReward (<answer> tags)": 2,
    "areal geometry3k_reward_fn": 6,
    "prime_math(grade_answer_verl)": 1,
    "tunix special handling": 2,
}
"""By source; docs/graders.md gives the reason for each."""


def graded_as_expected(cases: list[dict[str, Any]]) -> list[tuple[str, bool, bool]]:
    """Return the source of each case, and whether we and math-verify alone agree with it."""
    outcomes = []
    for case in cases:
        if not isinstance(case["gold"], str):
            continue
        whole = case["kind"] == "response"
        text = case["pred"] if whole else rf"\boxed{{{case['pred']}}}"
        gold, predicted = (parse(case[side], parsing_timeout=None) for side in ("gold", "pred"))
        theirs = verify(gold, predicted, timeout_seconds=None)
        ours = is_correct(text, case["gold"])
        outcomes.append((case["grader"], ours is case["expected"], theirs is case["expected"]))
    return outcomes


def test_agreement_with_every_source_is_at_least_that_of_math_verify_alone(
    grader_cases: list[dict[str, Any]],
) -> None:
    outcomes = graded_as_expected(grader_cases)
    assert len(outcomes) == 227
    ours = Counter(source for source, agrees, _ in outcomes if agrees)
    theirs = Counter(source for source, _, agrees in outcomes if agrees)
    assert not [source for source in theirs if ours[source] < theirs[source]]
    disagreements = Counter(source for source, agrees, _ in outcomes if not agrees)
    assert disagreements == KNOWN_DISAGREEMENTS


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
