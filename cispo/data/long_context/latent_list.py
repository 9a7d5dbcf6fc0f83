"""Python statements that change a list, hidden among others that change nothing."""

from collections.abc import Callable, Iterator
from random import Random

from cispo.data.long_context.length import TokenCount, gathered
from cispo.data.long_context.question import Question

_LARGEST = 50
_HEAD = (
    "These statements were typed at a Python prompt, one after the other. Many of them leave the "
    "list as it is, alone or together with their neighbours.\n\n"
)
_ASK = (
    "\n\nWhat does the last statement print? Answer with what it prints between <answer> and "
    "</answer>."
)


def latent_list(
    rng: Random,
    row: int,
    count: TokenCount,
    *,
    tokens: int,
    operations: int = 5,
) -> Question:
    """Change a list by so many operations, and ask for it, a slice, its sum, length or maximum.

    After Latent List of Michelangelo (arXiv 2409.12640), whose levels of difficulty are 1, 5 and 20
    operations. The prompt is filled up with statements that print, or that undo each other. Right
    is an answer of the same value; the paper's partial credit for near numbers is left out.
    """
    values = [rng.randint(1, _LARGEST) for _ in range(rng.randint(4, 6))]
    lines = [f"a = {values}"]
    lines += [_operation(rng, values) for _ in range(operations)]
    view, printed = _view(rng, values)
    taken = count("\n".join([_HEAD, *lines, view, _ASK]))
    fillers = gathered(
        _fillers(rng), lambda filler: count(f"{filler}\n"), tokens=tokens, taken=taken
    )
    places = sorted(rng.randint(1, len(lines)) for _ in fillers)
    for place, filler in reversed(list(zip(places, fillers, strict=True))):
        lines.insert(place, filler)
    program = "\n".join([*lines, view])
    return Question(
        messages=(f"{_HEAD}{program}{_ASK}",),
        truth={"form": "value", "value": printed},
        answer=f"<answer>{printed}</answer>",
    )


def _operation(rng: Random, values: list[int]) -> str:
    """Change the list, and return the statement that does it."""
    number, place = rng.randint(1, _LARGEST), rng.randrange(len(values) + 1)
    last = len(values) - 1

    def append() -> str:
        values.append(number)
        return f"a.append({number})"

    def insert() -> str:
        values.insert(place, number)
        return f"a.insert({place}, {number})"

    def remove() -> str:
        gone = rng.choice(values)
        values.remove(gone)
        return f"a.remove({gone})"

    def pop() -> str:
        values.pop(min(place, last))
        return f"a.pop({min(place, last)})"

    def reverse() -> str:
        values.reverse()
        return "a.reverse()"

    def sort() -> str:
        values.sort()
        return "a.sort()"

    growing: list[Callable[[], str]] = [append, insert]
    return rng.choice(growing if len(values) < 3 else [*growing, remove, pop, reverse, sort])()


def _view(rng: Random, values: list[int]) -> tuple[str, str]:
    """Choose what is printed in the end; return the statement and what it prints."""
    start = rng.randrange(len(values))
    views = {
        "print(a)": values,
        f"print(a[{start}:])": values[start:],
        "print(sum(a))": sum(values),
        "print(len(a))": len(values),
        "print(max(a))": max(values),
    }
    view = rng.choice(list(views))
    return view, str(views[view])


def _fillers(rng: Random) -> Iterator[str]:
    """Yield statements without end that leave the list as it was."""
    while True:
        number = rng.randint(1, _LARGEST)
        yield rng.choice(
            [
                f'print("step {number}")',
                "a.reverse()\na.reverse()",
                f"a.append({number})\na.pop()",
                f"a.insert(0, {number})\na.pop(0)",
                f"b = a + [{number}]\nb.sort()",
                f"len(a) + {number}",
            ]
        )
