"""Worked solutions for reasoning-gym families, for the supervised cold start.

reasoning-gym ships questions, answers and verifiers but no reasoning, so the steps are written
here. A family
without an entry has no solution and can be trained on by reinforcement only.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from cispo.data.answer_format import with_thought

Entry = Mapping[str, Any]


def _chain_sum(entry: Entry) -> list[str] | None:
    """Reduce from the left, one operation a line: `4 - 1 + 7`, `= 3 + 7`, `= 10`."""
    terms = entry["metadata"]["expression"].split(" ")
    if not all(term.isdigit() for term in terms[::2]) or not {*terms[1::2]} <= {"+", "-"}:
        return None
    steps = [" ".join(terms)]
    while len(terms) > 1:
        first, sign, second, *rest = terms
        total = int(first) + int(second) if sign == "+" else int(first) - int(second)
        terms = [str(total), *rest]
        steps.append("= " + " ".join(terms))
    return steps


def _leg_counting(entry: Entry) -> list[str]:
    """Multiply for each animal, then add from left to right."""
    from reasoning_gym.arithmetic.leg_counting import ANIMALS

    animals: dict[str, int] = entry["metadata"]["animals"]
    legs = {name: count * ANIMALS[name] for name, count in animals.items()}
    steps = [f"{n} {name}: {n}*{ANIMALS[name]}={legs[name]}" for name, n in animals.items()]
    total, *others = legs.values()
    for more in others:
        steps.append(f"{total}+{more}={total + more}")
        total += more
    return steps


def _simple_equations(entry: Entry) -> list[str]:
    """Solve a linear equation for its unknown: first the constant, then the factor."""
    equation, unknown = entry["metadata"]["equation"], entry["metadata"]["variable"]
    left, right = equation.replace(" ", "").split("=")
    value, constant, factor = int(right), 0, 0
    for sign, number, letter in re.findall(r"([+-]?)(\d*)\*?([a-z]?)", left):
        amount = int(f"{sign}{number or 1}")
        if letter:
            factor += amount
        elif number:
            constant += amount
    product = value - constant
    sign = "+" if constant < 0 else "-"
    moved = [f"{factor}*{unknown} = {value} {sign} {abs(constant)}"] if constant else []
    solved = [f"{factor}*{unknown} = {product}", f"{unknown} = {product} / {factor}"]
    return [equation, *moved, *(solved if constant or factor != 1 else [])]


def _gcd(entry: Entry) -> list[str]:
    """Euclid's algorithm, one remainder a line."""
    common, steps = entry["metadata"]["numbers"][0], []
    for number in entry["metadata"]["numbers"][1:]:
        large, small = max(common, number), min(common, number)
        while small:
            steps.append(f"{large}%{small}={large % small}")
            large, small = small, large % small
        common = large
    return steps


def _products(entry: Entry) -> list[str]:
    """Multiply by the digits of the first factor, largest first, then add."""
    first, second = (int(n) for n in entry["metadata"]["expression"].split(" * "))
    places = range(len(str(first)) - 1, -1, -1)
    parts = [int(digit) * 10**place for place, digit in zip(places, str(first), strict=True)]
    steps = [f"{part}*{second}={part * second}" for part in parts if part]
    if len(steps) > 1:
        steps.append("+".join(str(part * second) for part in parts if part) + f"={first * second}")
    return steps


def _lcm(entry: Entry) -> list[str]:
    """Divide the product by the greatest common divisor."""
    first, second = entry["metadata"]["numbers"]
    common = math.gcd(first, second)
    reduced = first // common
    division = f"{first}/{common}={reduced}"
    return [f"gcd={common}", division, f"{reduced}*{second}={reduced * second}"]


def _count_bits(entry: Entry) -> list[str]:
    """Add the digits of the number in base two."""
    return [f"{'+'.join(entry['metadata']['binary'])}={entry['answer']}"]


def _aiw(entry: Entry) -> list[str] | None:
    """Count the siblings again as the brother or sister sees them."""
    if entry["metadata"]["task_type"] != "siblings":
        return None
    told, asked = entry["question"].split(". ", maxsplit=1)
    kind = re.search(r"How many (\w+)", asked)
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (\w+)", told)}
    if kind is None or kind[1] not in counts:
        return None
    number, answer = counts[kind[1]], int(entry["answer"])
    return [f"{number} {kind[1]}", f"{number}{answer - number:+d}={answer}"]


def _rotate_matrix(entry: Entry) -> list[str]:
    """Turn by a right angle at a time: the first column, from below, becomes the first row."""
    facts, steps = entry["metadata"], []
    rows = facts["matrix"]
    for turn in range(1, facts["num_rotations"] % 4 + 1):
        rows = [list(column) for column in zip(*rows[::-1], strict=True)]
        steps.append(f"{90 * turn}: " + " / ".join(" ".join(map(str, row)) for row in rows))
    return steps


_STEPS: Mapping[str, Callable[[Entry], list[str] | None]] = {
    "aiw": _aiw,
    "basic_arithmetic": _chain_sum,
    "chain_sum": _chain_sum,
    "count_bits": _count_bits,
    "gcd": _gcd,
    "lcm": _lcm,
    "leg_counting": _leg_counting,
    "products": _products,
    "rotate_matrix": _rotate_matrix,
    "simple_equations": _simple_equations,
}


def worked_solution(family: str, entry: Entry) -> str | None:
    """Write out the solution of an entry, or return None where no steps are known."""
    steps = _STEPS[family](entry) if family in _STEPS else None
    return None if steps is None else with_thought(steps, str(entry["answer"]))
