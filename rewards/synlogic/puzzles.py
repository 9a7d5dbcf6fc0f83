"""Whether an answer solves a puzzle; the metadata are those of the public data set."""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from rewards.synlogic.arithmetic import NotArithmeticError, evaluate, integers
from rewards.synlogic.literals import last_block, last_brackets, read_literal

Puzzle = Mapping[str, Any]
"""`answer` and `metadata` of one task."""

_ARROWS = {
    "↑": (-1, 0), "↓": (1, 0), "←": (0, -1), "→": (0, 1),
    "↖": (-1, -1), "↗": (-1, 1), "↘": (1, 1), "↙": (1, -1),
}  # fmt: skip
_PAIR = re.compile(r"\(\s*['\"]?([^,'\"()]+)['\"]?\s*,\s*['\"]?([^,'\"()]+)['\"]?\s*\)")


def game_of_24(answer: str, puzzle: Puzzle) -> bool:
    """Whether an expression uses each number once and comes to the target, exactly."""
    data = puzzle["metadata"]
    text = last_block(answer)
    try:
        is_target = evaluate(text, operators="".join(data["operators"])) == int(data["result"])
        return is_target and Counter(integers(text)) == Counter(map(int, data["numbers"]))
    except NotArithmeticError:
        return False


def math_path(answer: str, puzzle: Puzzle) -> bool:
    """Whether an equation fills the question marks of the given one, changes nothing, and holds."""
    filled = last_brackets(answer)
    query = str(puzzle["metadata"]["query_expr"]).replace(" ", "")
    if filled is None:
        return False
    filled = filled.replace(" ", "")
    fits = len(filled) == len(query) and all(
        ours.isascii() and ours.isdigit() if asked == "?" else ours == asked
        for ours, asked in zip(filled, query, strict=True)
    )
    left, equals, right = filled.partition("=")
    try:
        return fits and bool(equals) and evaluate(left) == evaluate(right)
    except NotArithmeticError:
        return False


def arrow_maze(answer: str, puzzle: Puzzle) -> bool:
    """Whether arrows fill the blanks so that each number has just that many in rays from it.

    A ray is a run of arrows that all point away from the number; every arrow is part of one.
    """
    maze = puzzle["metadata"]["maze"]
    grid = _read(answer)
    if not _is_grid(grid) or [len(row) for row in grid] != [len(row) for row in maze]:
        return False
    for ours, asked in zip(grid, maze, strict=True):
        for cell, given in zip(ours, asked, strict=True):
            if cell not in _ARROWS if given == "X" else str(cell) != str(given):
                return False
    covered: set[tuple[int, int]] = set()
    for i, row in enumerate(grid):
        for j, cell in enumerate(row):
            if str(cell).isdigit():
                cells = _rays(grid, i, j)
                covered.update(cells)
                if len(cells) != int(cell):
                    return False
    arrows = {(i, j) for i, row in enumerate(grid) for j, cell in enumerate(row) if cell in _ARROWS}
    return arrows == covered


def goods_exchange(answer: str, puzzle: Puzzle) -> bool:
    """Whether the pairs of owner and thing are the right ones, in any order."""
    ours = _pairs(last_block(answer))
    return bool(ours) and ours == _pairs(str(puzzle["metadata"]["owns_after"]))


def cipher(answer: str, puzzle: Puzzle) -> bool:
    """Whether the text between `[[` and `]]` is the deciphered one."""
    ours = last_brackets(last_block(answer))
    expected = last_brackets(str(puzzle["answer"]))
    return ours is not None and ours.strip("'\"") == expected


def arc_agi(answer: str, puzzle: Puzzle) -> bool:
    """Whether the grid is the expected one."""
    expected = puzzle["answer"]
    expected = read_literal(expected) if isinstance(expected, str) else expected
    ours = _read(answer)
    return _is_grid(ours) and ours == expected


def zebra_puzzle(answer: str, puzzle: Puzzle) -> bool:
    """Whether the table is the expected one."""
    expected = puzzle["answer"]
    expected = read_literal(expected) if isinstance(expected, str) else expected
    return isinstance(expected, dict) and _read(answer) == expected


PUZZLES: Mapping[str, Callable[[str, Puzzle], bool]] = {
    "arc_agi": arc_agi,
    "arrow_maze": arrow_maze,
    "cipher": cipher,
    "game_of_24": game_of_24,
    "goods_exchange": goods_exchange,
    "math_path": math_path,
    "zebra_puzzle": zebra_puzzle,
}


def _read(answer: str) -> Any:
    try:
        return read_literal(last_block(answer))
    except ValueError:
        return None


def _is_grid(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, list) for row in value)


def _rays(grid: list[list[Any]], i: int, j: int) -> list[tuple[int, int]]:
    cells = []
    for arrow, (down, right) in _ARROWS.items():
        row, column = i + down, j + right
        while 0 <= row < len(grid) and 0 <= column < len(grid[row]) and grid[row][column] == arrow:
            cells.append((row, column))
            row, column = row + down, column + right
    return cells


def _pairs(text: str) -> dict[str, str]:
    return {owner.strip(): thing.strip() for owner, thing in _PAIR.findall(text)}
