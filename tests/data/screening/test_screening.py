"""Repeated, contaminated and badly put problems are found, and those that are like them not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cispo.config.prepare_tasks import FORMS as CONFIGURED
from cispo.data.screening.contamination import EvaluationIndex
from cispo.data.screening.duplicates import find_duplicates
from cispo.data.screening.forms import FORMS
from cispo.data.screening.removal import RemovalReason
from cispo.data.screening.screen import screen
from cispo.data.screening.words import runs, words
from cispo.types import Message, Task


def test_setting_makes_no_difference_and_numbers_and_signs_do() -> None:
    typeset = r"Find $\left(\dfrac{1}{2}\right) - 3x$, where $x = 1{,}000$ or 1,000."
    plain = r"find (\frac 1 2) - 3 X where x = 1{,}000 or 1000"
    assert words(typeset) == words(plain)
    assert words("3 - 2") != words("3 + 2")
    assert words("x^2 = 4.5") == ["x", "^", "2", "=", "4.5"]
    assert words("求和3") == ["求", "和", "3"]


def test_runs_are_all_neighbouring_words() -> None:
    assert runs(["a", "b", "c"], 2) == [("a", "b"), ("b", "c")]
    assert runs(["a"], 2) == []


# Of runs of 2: {ab bc cd de} and {ab bc cd dx} share 3 of 5.
BASE, NEAR = ["a", "b", "c", "d", "e"], ["a", "b", "c", "d", "x"]


@pytest.mark.parametrize(("similarity", "count"), [(0.6, 1), (0.61, 0)])
def test_near_duplicates_share_enough_runs(similarity: float, count: int) -> None:
    found = find_duplicates([BASE, NEAR], ["1", "1"], similarity=similarity, run_words=2)
    assert [(f.index, f.of, f.reason, f.similarity) for f in found] == [
        (1, 0, RemovalReason.NEAR_DUPLICATE, 0.6)
    ][:count]


def test_like_problems_with_other_answers_are_no_duplicates_and_equal_ones_contradict() -> None:
    problems, answers = [BASE, NEAR, BASE, BASE], ["1", "2", "1", "3"]
    found = find_duplicates(problems, answers, similarity=0.1, run_words=2)
    assert [(f.index, f.of, f.reason) for f in found] == [
        (2, 0, RemovalReason.DUPLICATE),
        (3, 0, RemovalReason.CONTRADICTION),
    ]


@given(
    problems=st.lists(st.lists(st.sampled_from("abcd"), max_size=7), max_size=12),
    similarity=st.sampled_from([0.2, 0.5, 0.7, 0.9, 1.0]),
)
def test_all_pairs_above_the_bound_are_found(problems: list[list[str]], similarity: float) -> None:
    """Against comparing each with each, where an earlier one that is itself removed is nobody."""
    kept: list[int] = []
    for index, problem in enumerate(problems):
        ours = set(runs(problem, 2))
        repeats = False
        for other in kept:
            theirs = set(runs(problems[other], 2))
            either = len(ours | theirs)
            repeats |= problem == problems[other]
            repeats |= bool(either) and len(ours & theirs) / either >= similarity
        if not repeats:
            kept.append(index)
    answers = ["1"] * len(problems)
    found = find_duplicates(problems, answers, similarity=similarity, run_words=2)
    assert {f.index for f in found} == set(range(len(problems))) - set(kept)


def test_contamination_is_the_share_of_an_evaluation_that_is_covered() -> None:
    known = EvaluationIndex({"e/1": list("abcdefgh")}, run_words=3, cover=0.5)
    # abc covers 3 of 8; abcd 4 of 8.
    assert known.find(list("xxabcxx")) is None
    half = known.find(list("xxabcdxx"))
    assert half is not None
    assert (half.name, half.cover) == ("e/1", 0.5)
    parts = known.find(list("abc") + list("zz") + list("fgh"))
    assert parts is not None
    assert parts.cover == 0.75


def test_a_short_evaluation_is_found_only_as_a_whole() -> None:
    known = EvaluationIndex({"e/1": ["two", "plus", "two"], "e/2": []}, run_words=8, cover=0.5)
    assert known.find(["two", "plus", "two"]) is not None
    assert known.find(["what", "is", "two", "plus", "two"]) is None
    assert known.find([]) is None


WRONG_FORMS = [
    (
        r"Which is it? $\textbf{(A) }30\qquad\textbf{(B) }31\qquad\textbf{(C) }32$",
        "multiple_choice",
    ),
    ("Which is even?\nA. 3\nB. 4\nC. 5", "multiple_choice"),
    ("Pick one: A) 3 B) 4 C) 5", "multiple_choice"),
    ("Enter the letter of the correct option.", "multiple_choice"),
    ("Prove that there are infinitely many primes.", "proof"),
    (r"Let $n$ be odd. Show that $n^2-1$ is divisible by 8.", "proof"),
    ("Find all such $x$ and prove that there are no others.", "proof"),
    ("A box holds 3 balls. (a) How many pairs are there? (b) How many triples?", "multi_part"),
    ("Let $x=2$.\n1. Compute $x^2$.\n2. Compute $x^3$.", "multi_part"),
]


@pytest.mark.parametrize(("question", "form"), WRONG_FORMS)
def test_questions_of_a_wrong_form_are_found(question: str, form: str) -> None:
    assert [reason for reason, find in FORMS.items() if find(question, "3")] == [form]


@pytest.mark.parametrize(
    "question",
    [
        r"Points $A$, $B$ and $C$ lie on a line. Find $f(A) + f(B) + f(C)$.",
        "He goes from city A. Then to B. Then to C. How far is it?",
        "Wilson needs to show that he received 80 or higher. What must he score?",
        "It can be proved in two ways. How many pages do both take?",
        r"A function satisfies (i) $f(1) = 1$ and (ii) $f(n+1) = 2f(n)$. What is $f(4)$?",
        "What is $n$ in $n + (n + 1) + (n + 2) = 9$?",
        "Rules:\n1) If a number is 25 or less, double it.\n2) Else subtract 12.\nWhat comes first?",
    ],
)
def test_questions_like_them_are_let_through(question: str) -> None:
    assert [reason for reason, find in FORMS.items() if find(question, "3")] == []


def test_yes_and_no_are_found_by_the_answer() -> None:
    find = FORMS[RemovalReason.YES_NO]
    assert [
        find("", answer) for answer in ["Yes", r"\text{no}", "True.", "odd", "no solution"]
    ] == [
        "Yes",
        r"\text{no}",
        "True.",
        None,
        None,
    ]


def test_the_configuration_knows_all_forms() -> None:
    assert tuple(str(reason) for reason in FORMS) == CONFIGURED


def test_a_removal_says_with_what_a_task_collides() -> None:
    asked = "How many apples do Ann and Bob have together if each of them has four of them?"
    problems = [
        "Find the sum of the first ten odd numbers.",
        f"Read this. {asked}",
        "find the SUM of the first ten odd numbers",
        "Prove that 2 is prime.",
        "Prove it by a program.",
    ]
    tasks = [
        Task(
            task_id=f"t/{index}",
            messages=(Message(role="user", content=problem),),
            verifier="code" if "program" in problem else "math",
            truth={"answer": "100"},
        )
        for index, problem in enumerate(problems)
    ]
    removed = screen(
        tasks,
        problems,
        {"exam: 7": asked},
        similarity=0.7,
        duplicate_run_words=3,
        cover=0.5,
        contamination_run_words=8,
        forms=list(FORMS),
    )
    assert {index: (str(r.reason), r.detail) for index, r in removed.items()} == {
        1: ("contaminated", "100% of the words of exam: 7"),
        2: ("duplicate", "of t/0, similarity 1.00"),
        3: ("proof", "Prove that 2 is prime"),
    }
