"""Dialogues in which the assistant has to repeat an earlier turn: MR-NIAH and MRCR."""

import string
from collections.abc import Iterator
from random import Random

from cispo.data.long_context.length import TokenCount, gathered
from cispo.data.long_context.prose import FORMS, TOPICS, piece, turns, with_article
from cispo.data.long_context.question import Question

Turn = tuple[str, str]

_ORDINALS = ("first", "second", "third")
_SUFFIXES = {1: "st", 2: "nd", 3: "rd"}
_PREFIX_LENGTH = 10


def mr_niah(
    rng: Random,
    row: int,
    count: TokenCount,
    *,
    tokens: int,
    haystack: str | None = None,
) -> Question:
    """Let the user ask for the same thing twice, for another once, and then for one of the two.

    MiniMax's multi-round needle in a haystack (MiniMax-01, evaluation/MR-NIAH): the three turns lie
    at 25%, 50% and 75% of the dialogue; an answer has components and the score is the share of them
    that come back word by word. Ours have three lines.
    """
    topic, other = rng.sample(TOPICS, 2)
    poems = _different(rng, "poem", topic, 2, num_sentences=3)
    needles = [(f"Write a poem about {topic}.", poem) for poem in poems]
    needles.insert(
        rng.randrange(3),
        (f"Write a poem about {other}.", piece(rng, "poem", other, num_sentences=3)),
    )
    wanted = row % 2
    ask = f"Please repeat the {_ORDINALS[wanted]} poem that you wrote about {topic}."
    filler = (
        turn
        for turn in turns(rng, haystack)
        if not (turn[0].startswith("Write a poem") and topic in turn[0])
    )
    others = gathered(
        filler, lambda turn: _size(turn, count), tokens=tokens, taken=_taken(needles, ask, count)
    )
    for index, needle in reversed(list(enumerate(needles))):
        others.insert(round((index + 1) * len(others) / 4), needle)
    return Question(
        messages=(*(text for turn in others for text in turn), ask),
        truth={"form": "components", "parts": [_bare(line) for line in poems[wanted].splitlines()]},
        answer=poems[wanted],
    )


def mrcr(
    rng: Random,
    row: int,
    count: TokenCount,
    *,
    tokens: int,
    needles: int = 2,
    haystack: str | None = None,
) -> Question:
    """Let the user ask for the same piece `needles` times among others like it, then for the i-th.

    OpenAI's MRCR (data set openai/mrcr, after arXiv 2409.12640): the answer must begin with a
    random string, and what follows is scored by difflib's ratio. Some of the other turns share the
    needles' form and some their topic.
    """
    form, topic = rng.choice(FORMS), rng.choice(TOPICS)
    same = f"Write {with_article(form)} about {topic}."
    pieces = _different(rng, form, topic, needles)
    wanted = rng.randrange(needles)
    prefix = "".join(rng.choices(string.ascii_letters + string.digits, k=_PREFIX_LENGTH))
    ask = (
        f"Put {prefix} directly before the {_ordinal(wanted + 1)} {form} about {topic} and repeat "
        "it word by word. Write nothing else."
    )
    own = [(same, text) for text in pieces]
    near = (turn for turn in _near(rng, form, topic, haystack) if turn[0] != same)
    others = gathered(
        near, lambda turn: _size(turn, count), tokens=tokens, taken=_taken(own, ask, count)
    )
    places = sorted(rng.randint(0, len(others)) for _ in own)
    for place, turn in reversed(list(zip(places, own, strict=True))):
        others.insert(place, turn)
    return Question(
        messages=(*(text for turn in others for text in turn), ask),
        truth={"form": "verbatim", "prefix": prefix, "text": pieces[wanted]},
        answer=prefix + pieces[wanted],
    )


def _near(rng: Random, form: str, topic: str, haystack: str | None) -> Iterator[Turn]:
    """Yield other turns without end, every second of the needles' form or topic."""
    for other in turns(rng, haystack):
        yield other
        near_form, near_topic = rng.choice([(form, rng.choice(TOPICS)), (rng.choice(FORMS), topic)])
        text = piece(rng, near_form, near_topic)
        yield f"Write {with_article(near_form)} about {near_topic}.", text


def _different(
    rng: Random, form: str, topic: str, number: int, *, num_sentences: int | None = None
) -> list[str]:
    """Write pieces no two of which are alike."""
    pieces: dict[str, None] = {}
    while len(pieces) < number:
        pieces[piece(rng, form, topic, num_sentences=num_sentences)] = None
    return list(pieces)


def _size(turn: Turn, count: TokenCount) -> float:
    return count(turn[0]) + count(turn[1])


def _taken(turns_: list[Turn], ask: str, count: TokenCount) -> float:
    return sum(_size(turn, count) for turn in turns_) + count(ask)


def _bare(line: str) -> str:
    return line.strip().rstrip(".")


def _ordinal(number: int) -> str:
    return f"{number}{_SUFFIXES.get(number, 'th')}"
