"""Puzzles whose published verifiers can be fooled: solved, missed, and attacked."""

from typing import Any

import pytest

from rewards.logic import grade_logic
from rewards.synlogic.puzzles import PUZZLES
from rewards.truth import BadTruthError

TWENTY_FOUR = {
    "puzzle": "game_of_24",
    "metadata": {"numbers": [3, 3, 8, 8], "operators": ["+", "-", "*", "/"], "result": 24},
}
PATH = {"puzzle": "math_path", "metadata": {"query_expr": "1?+2*?=2?"}}
MAZE = {
    "puzzle": "arrow_maze",
    "metadata": {"maze": [["2", "X", "X"], ["X", "1", "X"], ["1", "X", "→"]]},
}
GOODS = {"puzzle": "goods_exchange", "metadata": {"owns_after": "(('Ann','a pen'),('Bo','tea'))"}}
CIPHER = {"puzzle": "cipher", "answer": "[[HELLO WORLD]]"}
GRID = {"puzzle": "arc_agi", "answer": [[1, 0], [0, 2]]}
ZEBRA = {"puzzle": "zebra_puzzle", "answer": '{"house 1": {"pet": "dog"}}'}


def solves(answer: str, truth: dict[str, Any]) -> bool:
    return grade_logic(answer, truth)["correct"] == 1.0


@pytest.mark.parametrize(
    ("answer", "truth"),
    [
        ("```python\n8/(3-8/3)\n```", TWENTY_FOUR),
        ("so 8 / (3 - 8 / 3) it is\n```\n8/(3-(8/3))\n```", TWENTY_FOUR),
        ("[[13+2*5=23]]", PATH),
        ("first [[11+2*1=99]], better: [[ 10 + 2*6 = 22 ]]", PATH),
        ("```json\n[[1, 0], [0, 2]]\n```", GRID),
        ("[[1,0],[0,2]]", GRID),
        ("(('Bo','tea'), ('Ann','a pen'))", GOODS),
        ("```python\n((Ann, a pen),(Bo, tea))\n```", GOODS),
        ("[[HELLO WORLD]]", CIPHER),
        ("```python\n[['HELLO WORLD']]\n```", CIPHER),
        ('```json\n{"house 1": {"pet": "dog"}}\n```', ZEBRA),
        ("{'house 1': {'pet': 'dog'}}", ZEBRA),
    ],
)
def test_a_solution_is_recognised(answer: str, truth: dict[str, Any]) -> None:
    assert solves(answer, truth)


@pytest.mark.parametrize(
    ("answer", "truth"),
    [
        ("```python\n3+3+8+8\n```", TWENTY_FOUR),  # what the published verifier accepts
        ("```python\n24\n```", TWENTY_FOUR),
        ("```python\n3*8\n```", TWENTY_FOUR),
        ("```python\n8/(3-8/3)+0*3\n```", TWENTY_FOUR),
        ("```python\n33-8/8-8\n```", TWENTY_FOUR),
        ("```python\n3**3-3*8/8\n```", TWENTY_FOUR),
        ("```python\n8//3*(3+8)\n```", TWENTY_FOUR),
        ("```python\n8/(3-3)*8\n```", TWENTY_FOUR),
        ("```python\n24.0\n```", TWENTY_FOUR),
        ("```python\nexit(0)\n```", TWENTY_FOUR),
        ("```python\n__import__('os').system('true')\n```", TWENTY_FOUR),
        ("```python\n" + "(" * 3000 + "\n```", TWENTY_FOUR),
        ("[[14+2*5=23]]", PATH),
        ("[[13+2*5==23]]", PATH),
        ("[[23=13+2*5]]", PATH),
        ("[[13+2*5=23 or 1]]", PATH),
        ("[[１3+2*5=23]]", PATH),
        ("13+2*5=23", PATH),
        ("[[1, 0], [0, 3]]", GRID),
        ("[[True, False], [False, 3]]", GRID),
        ("__import__('os')", GRID),
        ("[]", GRID),
        ("(('Ann','tea'),('Bo','a pen'))", GOODS),
        ("(('Ann','a pen'))", GOODS),
        ("", GOODS),
        ("[[HELLO WORD]]", CIPHER),
        ("HELLO WORLD", CIPHER),
        ('{"house 1": {"pet": "cat"}}', ZEBRA),
        ('{"house 1": {"pet": "dog"}, "house 2": {}}', ZEBRA),
    ],
)
def test_anything_else_is_not(answer: str, truth: dict[str, Any]) -> None:
    assert not solves(answer, truth)


def test_a_maze_needs_every_ray_to_have_its_number() -> None:
    truth = {
        "puzzle": "arrow_maze",
        "metadata": {"maze": [["3", "X", "X"], ["X", "1", "X"], ["2", "X", "→"]]},
    }
    solved = [["3", "→", "→"], ["↓", "1", "→"], ["2", "→", "→"]]
    assert solves(repr(solved), truth)
    for i, j, cell in [(0, 1, "←"), (1, 0, "X"), (1, 0, "→"), (2, 2, "←"), (0, 0, "4"), (2, 1, 7)]:
        changed = [list(row) for row in solved]
        changed[i][j] = cell
        assert not solves(repr(changed), truth), (i, j, cell)
    assert not solves(repr(solved[:2]), truth)


@pytest.mark.parametrize("name", list(PUZZLES))
@pytest.mark.parametrize(
    "answer", ["", "x", "[[", "]]", "[[]]", "```", "{}", "[[[]]]", "0", "null"]
)
def test_nonsense_solves_nothing_and_raises_nothing(name: str, answer: str) -> None:
    truths = {t["puzzle"]: t for t in (TWENTY_FOUR, PATH, MAZE, GOODS, CIPHER, GRID, ZEBRA)}
    assert not solves(answer, truths[name])


@pytest.mark.parametrize(
    "truth", [{"puzzle": "chess"}, {"puzzle": "game_of_24", "metadata": {}}, {"puzzle": "cipher"}]
)
def test_a_truth_that_cannot_be_read_is_an_error_of_its_own(truth: dict[str, Any]) -> None:
    with pytest.raises(BadTruthError):
        grade_logic("x", truth)
