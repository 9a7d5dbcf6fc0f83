"""Puzzles of reasoning-gym: their own answers, nonsense, and answers that want to be evaluated."""

import json
from typing import Any

import pytest
import reasoning_gym

from rewards.logic import grade_logic, is_harmless
from rewards.truth import BadTruthError

FAMILIES = [
    *("chain_sum", "basic_arithmetic", "gcd", "lcm", "letter_counting", "leg_counting"),
    *("simple_equations", "number_sequence", "count_bits", "base_conversion", "syllogism", "maze"),
    *("knights_knaves", "spell_backward", "prime_factorization", "game_of_life_halting"),
]
EVALUATING = ["spiral_matrix", "string_insertion", "binary_matrix"]


def entries(name: str, size: int = 3) -> list[dict[str, Any]]:
    """Items as they come back from a task file."""
    data_set = reasoning_gym.create_dataset(name, size=size, seed=11)
    return [json.loads(json.dumps(entry, default=str)) for entry in data_set]


def grade(name: str, answer: str, entry: dict[str, Any]) -> dict[str, float]:
    return dict(grade_logic(answer, {"dataset": name, "entry": entry}))


@pytest.mark.parametrize("name", FAMILIES + EVALUATING)
def test_a_family_accepts_its_own_answers(name: str) -> None:
    for entry in entries(name):
        assert grade(name, str(entry["answer"]), entry) == {"correct": 1.0, "score": 1.0}


@pytest.mark.parametrize("name", [*FAMILIES, *EVALUATING])
@pytest.mark.parametrize("answer", ["", "no idea", "-123456789", "((((", "\x00", "a" * 20_000])
def test_a_family_refuses_nonsense(name: str, answer: str) -> None:
    for entry in entries(name, size=1):
        try:
            graded = grade(name, answer, entry)
        except BadTruthError:
            raise
        except ValueError:  # the grader process counts it as wrong
            continue
        assert graded["correct"] == 0.0
        assert graded["score"] < 0.5


def test_partial_credit_is_a_score_and_not_correct() -> None:
    entry = entries("chain_sum", size=1)[0]
    graded = grade("chain_sum", f"It is {entry['answer']}", entry)
    assert 0.0 < graded["score"] < 1.0
    assert graded["correct"] == 0.0


@pytest.mark.parametrize("name", ["arc_agi", "rearc"])
def test_boards_are_compared_after_a_task_file_as_before(name: str) -> None:
    for entry in entries(name, size=2):
        assert grade(name, str(entry["answer"]), entry)["correct"] == 1.0
        changed = str(entry["answer"]).translate(str.maketrans("0123456789", "1234567890"))
        assert grade(name, changed, entry)["correct"] == 0.0


@pytest.mark.parametrize("answer", ["nan", "NaN", "nanj", "nan+nanj", "-nan"])
def test_what_is_no_number_is_near_none(answer: str) -> None:
    for entry in entries("complex_arithmetic"):
        assert grade("complex_arithmetic", answer, entry) == {"correct": 0.0, "score": 0.0}


ATTACKS = [
    "__import__('os').system('touch {marker}')",
    "exec(\"open('{marker}', 'w')\")",
    "open('{marker}', 'w')",
    "[open('{marker}', 'w')]",
    "(open)('{marker}', 'w')",
    "[open][0]('{marker}', 'w')",
    "open \n ('{marker}', 'w')",
    "ｏｐｅｎ('{marker}', 'w')",
    "sin('open' + '+('[1] + '{marker}')",
    "[c for c in ().__class__.__base__.__subclasses__()]",
    "print.__self__",
    "1 if eval('1') else 2",
]


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("name", ["spiral_matrix", "countdown", "puzzle24", "n_queens"])
def test_an_answer_is_never_code(tmp_path, name: str, attack: str) -> None:
    marker = tmp_path / "marker"
    entry = entries(name, size=1)[0]
    answer = attack.replace("{marker}", str(marker))
    assert grade(name, answer, entry) == {"correct": 0.0, "score": 0.0}
    assert not is_harmless(answer)
    assert not marker.exists()


@pytest.mark.parametrize(
    "answer",
    [
        "(1 + 2) * 3 - 4/5",
        "[[1, 2], [3, 4]]",
        "['A', 'B']",
        '["_", "Q"]',
        "2*x**3/3 + sin(x)*exp(x) - log(x) + C",
        "-(x + 1.5)*(x - .5)",
        "5(3)",
        "",
    ],
)
def test_plain_values_and_formulas_are_harmless(answer: str) -> None:
    assert is_harmless(answer)


@pytest.mark.parametrize("name", ["countdown", "polynomial_multiplication", "simple_integration"])
def test_families_that_evaluate_formulas_still_accept_their_answers(name: str) -> None:
    for entry in entries(name, size=2):
        answer = entry["answer"] or entry["metadata"]["expression"]
        assert grade(name, str(answer), entry)["correct"] == 1.0


@pytest.mark.parametrize(
    "truth",
    [
        {},
        {"dataset": "no_such_family", "entry": {}},
        {"dataset": "gcd"},
        {"dataset": 3, "entry": {}},
    ],
)
def test_a_task_without_a_family_or_an_item_is_an_error_of_its_own(truth: dict[str, Any]) -> None:
    with pytest.raises(BadTruthError):
        grade_logic("1", truth)
