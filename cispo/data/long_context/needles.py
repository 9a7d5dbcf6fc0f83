"""Needles in prose: one among several to be found, or all to be counted."""

from random import Random

from cispo.data.long_context.length import TokenCount, gathered
from cispo.data.long_context.prose import sentences
from cispo.data.long_context.question import Question

_PLACES = (
    *("Lisbon", "Bergen", "Nairobi", "Cusco", "Hanoi", "Tartu", "Quebec", "Fez", "Perth", "Izmir"),
    *("Gdansk", "Havana", "Kyoto", "Leeds", "Malmo", "Natal", "Oslo", "Porto", "Riga", "Turin"),
)
_NUM_DEPTHS = 11


def needle(
    rng: Random,
    row: int,
    count: TokenCount,
    *,
    tokens: int,
    needles: int = 1,
    haystack: str | None = None,
) -> Question:
    """Hide a number in prose and ask for it; more needles hide numbers of other places.

    The depth of the one that is asked for goes through 0%, 10%, .. 100% from row to row, as in the
    original test (G. Kamradt 2023). Right is an answer that holds the number, the rule of RULER
    (arXiv 2404.06654).
    """
    places = rng.sample(_PLACES, needles)
    numbers = [str(rng.randint(1_000_000, 9_999_999)) for _ in places]
    facts = [
        f"The special number of {place} is {number}."
        for place, number in zip(places, numbers, strict=True)
    ]
    ask = f"What is the special number of {places[0]} in the text above? Answer with the number."
    prose = _prose(rng, haystack, count, tokens=tokens, taken=count("\n".join([*facts, "", ask])))
    depths = [row % _NUM_DEPTHS / (_NUM_DEPTHS - 1), *(rng.random() for _ in facts[1:])]
    return Question(
        messages=(f"{_with_needles(prose, facts, depths)}\n\n{ask}",),
        truth={"form": "contains", "parts": [numbers[0]]},
        answer=numbers[0],
    )


def counting(
    rng: Random,
    row: int,
    count: TokenCount,
    *,
    tokens: int,
    needles: int = 8,
    haystack: str | None = None,
) -> Question:
    """Scatter counts evenly over prose and ask for all of them in order.

    After Counting-Stars (arXiv 2403.11802), whose score is the share of the counts that come back;
    ours divides by how many the answer lists where those are more, so that listing all numbers
    earns nothing.
    """
    counts = rng.sample(range(2, 100 + needles), needles)
    facts = [f"That night the lamplighter counted {number} lanterns." for number in counts]
    ask = (
        "In the text above, how many lanterns did the lamplighter count each time? Answer with the "
        "counts alone, in the order of the text, as a JSON list such as [1, 2, 3]."
    )
    prose = _prose(rng, haystack, count, tokens=tokens, taken=count("\n".join([*facts, "", ask])))
    depths = [(index + 0.5) / needles for index in range(needles)]
    return Question(
        messages=(f"{_with_needles(prose, facts, depths)}\n\n{ask}",),
        truth={"form": "counts", "counts": counts},
        answer=str(counts),
    )


def _prose(
    rng: Random, haystack: str | None, count: TokenCount, *, tokens: int, taken: float
) -> list[str]:
    return gathered(
        sentences(rng, haystack), lambda one: count(f"{one} "), tokens=tokens, taken=taken
    )


def _with_needles(prose: list[str], facts: list[str], depths: list[float]) -> str:
    """Put each fact where its share of the prose ends, facts at one place in their order."""
    places = sorted((round(depth * len(prose)), index) for index, depth in enumerate(depths))
    parts: list[str] = []
    done = 0
    for place, index in places:
        parts += [*prose[done:place], facts[index]]
        done = place
    return " ".join([*parts, *prose[done:]])
