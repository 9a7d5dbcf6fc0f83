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
        (r"\boxed{\boxed{7}}", "7"),
        (r"\boxed{\text{it is }\boxed{7}}", "7"),
        (r"\boxed{\frac{\boxed{1}}{2}}", "1/2"),
        (r"\fbox{8}", "8"),
        ("The answer is $42$.\n\nLet me know if you have questions!", "42"),
        ("The answer is 28.\n\nHope this helps.", "28"),
        ("**Answer:** 18 eggs", "18"),
        ("The final answer is:\n\n\\[\n6\n\\]\n", "6"),
        ("\\[\n\\begin{aligned}\nx&=3+3\\\\\n&=6\n\\end{aligned}\n\\]", "6"),
        ("She has 5+37=42.\n#### 42", "42"),
        (r"\boxed{42}", "She has 5+37=42.\n#### 42"),
        (r"\boxed{42}", "The answer is 42"),
        ("<answer>The answer is $42$.</answer>", "42"),
        ("2x+3", "3+2x"),
        ("The point is (3, 4).", "(3,4)"),
        ("The area is 3π", r"3\pi"),
        (r"\boxed{2√3}", r"2\sqrt{3}"),
        (r"\boxed{sqrt(3)}", r"\sqrt{3}"),
        (r"\boxed{½}", "0.5"),
        (r"\boxed{x²}", "x^2"),
        (r"\boxed{４２}", "42"),
        ("\\boxed{42\u200b}", "42"),
        ("The answer is −3.", "-3"),
        (r"\boxed{45°}", r"45^\circ"),
        (r"\boxed{€12}", "12"),
        (r"\boxed{12}", r"\$12"),
        (r"\boxed{1\,234\,567}", "1234567"),
        (r"\boxed{1 234}", "1234"),
        (r"\boxed{1,234/2}", "617"),
        (r"\boxed{3 1/2}", "7/2"),
        (r"\boxed{1.2e3}", "1200"),
        (r"\boxed{1000000}", "1e6"),
        (r"\boxed{0.1\overline{6}}", r"\frac16"),
        (r"\boxed{50\%}", "50"),
        (r"\boxed{50\%}", "0.5"),
        ("it is 25 percent", "25%"),
        (r"\boxed{\{1,2,3\}}", "1,2,3"),
        (r"\boxed{2 \text{ and } 5}", "2,5"),
        (r"\boxed{x=2\text{ or }x=5}", "5, 2"),
        (r"\boxed{1 \le x \le 4}", "[1,4]"),
        (r"\boxed{1>x>-1}", "-1<x<1"),
        (r"\boxed{\frac{-1+\sqrt5}{2},\frac{-1-\sqrt5}{2}}", r"\frac{-1\pm\sqrt5}{2}"),
        (r"\boxed{i^2}", "-1"),
        (r"\boxed{\dbinom52}", "10"),
        (r"\boxed{\varnothing}", r"\emptyset"),
        (r"\boxed{101_2}", "101_{2}"),
        (r"\boxed{\textbf{(B)}\ 12}", "B"),
        (r"\boxed{\textbf{(B) }12}", "12"),
        (r"\boxed{B. 12}", r"\text{(B)}"),
        ("The correct answer is (B).", "B"),
        (r"\boxed{\text{No solution}}", "no solution"),
        ("The answer is Tuesday.", "tuesday"),
        (r"\boxed{a \equiv 3 \pmod{7}}", r"a\equiv 3 \pmod 7"),
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
        (r"\boxed{42", "42"),
        ("\\boxed{\u202e24\u202c}", "42"),
        (r"\boxed{52_{10}}", "52_8"),
        (r"\boxed{5000\%}", r"50\%"),
        (r"\boxed{A}, \boxed{B}", "B"),
        (r"\boxed{B \text{ or } C}", "B"),
        (r"\boxed{\text{(A) or (B)}}", "A"),
        ("It is A, B, C or D.", "B"),
        (r"\boxed{\text{(C) }12}", "B"),
        (r"\boxed{\text{infinitely many}}", "no solution"),
        (r"\boxed{\text{yes and no}}", "yes"),
        (r"\boxed{\pm 42}", "42"),
        (r"\boxed{\mathbb{R}}", "42"),
        (r"\boxed{x=42=43}", "42"),
        (r"\boxed{4>x>1}", "-1<x<1"),
        (r"\boxed{i}", "-i"),
    ],
)
def test_other_answers_are_not(text: str, reference: str) -> None:
    assert not is_correct(text, reference)


def test_any_of_several_references_will_do() -> None:
    truth = {"answer": ["0.5", "one half"]}
    assert grade_math(r"\boxed{\frac12}", truth)["correct"] == 1.0
    assert grade_math(r"\boxed{\text{One half}}", truth)["correct"] == 1.0
    assert grade_math(r"\boxed{2}", truth)["correct"] == 0.0


@pytest.mark.parametrize(
    "truth", [{}, {"answer": None}, {"answer": ""}, {"answer": []}, {"answer": ["1", 2]}]
)
def test_a_reference_that_cannot_be_read_is_an_error_of_its_own(truth: dict[str, Any]) -> None:
    with pytest.raises(BadTruthError):
        grade_math("42", truth)


KNOWN_DISAGREEMENTS = {
    "math-verify": 1,
    "rasbt ch03": 1,
    "molt geo3k": 1,
    "areal geometry3k_reward_fn": 2,
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
        and (case["gold"], case["pred"])
        != ("1/2", "50%")  # of equal value, as docs/graders.md says
        and is_correct(
            case["pred"] if case["kind"] == "response" else rf"\boxed{{{case['pred']}}}",
            case["gold"],
        )
    ]
    assert not wrong
