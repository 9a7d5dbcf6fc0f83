"""Endless harmless prose: short pieces of writing of our own making, or a local file's text."""

import json
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from random import Random

from cispo.errors import ConfigError, TaskFileError

FORMS = (
    *("poem", "riddle", "diary entry", "news item", "letter", "speech", "legend", "postcard"),
    *("lullaby", "review", "weather report", "advertisement"),
)
TOPICS = (
    *(
        "tapirs",
        "lighthouses",
        "glaciers",
        "violins",
        "beekeepers",
        "comets",
        "ferries",
        "orchards",
    ),
    *("puppets", "volcanoes", "sailors", "windmills", "owls", "clockmakers", "canals", "penguins"),
    *("carpets", "bakers", "meadows", "foxes", "astronomers", "bridges", "mushrooms", "trams"),
)
_TIMES = (
    *("Before dawn", "On quiet evenings", "In the third week of March", "After heavy rain"),
    *("Whenever the market closes", "During the long winter", "Since last summer", "At noon"),
    *("Between two storms", "Once the lamps are lit", "Every other Tuesday", "Late in the season"),
)
_DEEDS = (
    *("gather around", "keep a careful record of", "quietly remember", "take their names from"),
    *("argue about", "find shelter beside", "travel far to see", "have always mistrusted"),
    *("tell long stories of", "look after", "measure their days by", "are painted next to"),
)
_QUALITIES = (
    *("crooked", "silver", "forgotten", "narrow", "patient", "salt-worn", "crowded", "borrowed"),
    *("hollow", "bright green", "half-finished", "very old", "singing", "folded", "nameless"),
)
_THINGS = (
    *("harbour", "staircase", "garden wall", "kettle", "river", "map", "chapel", "ladder", "coat"),
    *("rope", "window", "well", "drum", "gate", "basket", "library", "anchor", "quarry", "bell"),
)
_ENDINGS = (
    *("and nobody minds", "as the older ones foretold", "without a single word", "for a small fee"),
    *(
        "until the tide turns",
        "to the surprise of visitors",
        "with both hands full",
        "by ear alone",
    ),
    *(
        "against all advice",
        "and the dogs fall silent",
        "which costs them nothing",
        "in good humour",
    ),
)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


def sentence(rng: Random, topic: str) -> str:
    """Write one sentence about a topic, out of about a third of a million."""
    deed = f"{topic} {rng.choice(_DEEDS)} the {rng.choice(_QUALITIES)} {rng.choice(_THINGS)}"
    return f"{rng.choice(_TIMES)}, {deed} {rng.choice(_ENDINGS)}."


def piece(rng: Random, form: str, topic: str, *, num_sentences: int | None = None) -> str:
    """Write a short piece of some form about a topic, one sentence a line in verse."""
    lines = [sentence(rng, topic) for _ in range(num_sentences or rng.randint(3, 6))]
    return ("\n" if form in ("poem", "riddle", "lullaby") else " ").join(lines)


def with_article(form: str) -> str:
    """Put `a` or `an` before it."""
    return f"{'an' if form[0] in 'aeiou' else 'a'} {form}"


def sentences(rng: Random, haystack: str | None) -> Iterator[str]:
    """Yield sentences without end: our own, or those of a file from a random place onwards."""
    if haystack is None:
        while True:
            yield sentence(rng, rng.choice(TOPICS))
    known = _file_sentences(haystack)
    start = rng.randrange(len(known))
    while True:
        yield known[start % len(known)]
        start += 1


def turns(rng: Random, haystack: str | None) -> Iterator[tuple[str, str]]:
    """Yield what a user asks and what an assistant answers: our own, or a JSONL file's rows."""
    known = None if haystack is None else _file_turns(haystack)
    while True:
        if known is None:
            form, topic = rng.choice(FORMS), rng.choice(TOPICS)
            yield f"Write {with_article(form)} about {topic}.", piece(rng, form, topic)
        else:
            yield from rng.sample(known, len(known))


@lru_cache(maxsize=4)
def _file_sentences(haystack: str) -> Sequence[str]:
    path = _existing(haystack)
    if path.suffix == ".jsonl":
        text = " ".join(answer for _, answer in _file_turns(haystack))
    else:
        text = path.read_text(encoding="utf-8", errors="replace")
    found = [part.strip() for part in _SENTENCE_END.split(text) if part.strip()]
    if not found:
        raise TaskFileError(f"{path}: no text in it")
    return found


@lru_cache(maxsize=4)
def _file_turns(haystack: str) -> Sequence[tuple[str, str]]:
    path = _existing(haystack)
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            found.append((str(row["user"]), str(row["assistant"])))
        except (ValueError, KeyError, TypeError) as error:
            raise TaskFileError(
                f"{path}, line {number}: a turn is an object with user and assistant ({error!r})"
            ) from error
    if not found:
        raise TaskFileError(f"{path}: no turn in it")
    return found


def _existing(haystack: str) -> Path:
    path = Path(haystack).expanduser()
    if not path.is_file():
        raise ConfigError(
            f"options.haystack={haystack}: no such file; give a text, a JSONL file of turns, or "
            "null for text of our own making"
        )
    return path
