"""Where a small change makes a test expect something else, and what it could expect instead.

Alternatives are chosen so that none of them, nor the original, stands out among the others: numbers
come from a range that lies around the original by chance, texts differ in one and the same letter.
"""

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from rewards.swe.expected import expected_parts, expected_rows
from rewards.swe.test_source import Offsets, TestFunction

MOST_ALTERNATIVES = 7
"""With the original these are eight variants of a test: three bits."""

_OPPOSITES = {
    "assertEqual": "assertNotEqual",
    "assertTrue": "assertFalse",
    "assertIn": "assertNotIn",
    "assertIs": "assertIsNot",
    "assertIsNone": "assertIsNotNone",
    "assertIsInstance": "assertNotIsInstance",
}
_OPPOSITES |= {after: before for before, after in _OPPOSITES.items()}
_PLAIN_TYPES = frozenset(
    {
        *("list", "tuple", "set", "frozenset", "dict", "sorted", "str", "int", "float", "bytes"),
        *(
            "Decimal",
            "Fraction",
            "OrderedDict",
            "date",
            "datetime",
            "timedelta",
            "approx",
            "dedent",
        ),
    }
)
_EXCEPTIONS = (
    *("KeyError", "TypeError", "ValueError", "AttributeError", "IndexError", "OSError"),
    *("RuntimeError", "LookupError"),
)
_RAISES = ("raises", "assertRaises", "assertRaisesRegex", "warns", "assertWarns")
_RANGE = 16
_SHOWS = 3  # the rank of changes that give themselves away
_LETTERS, _DIGITS = "abcdefghijklmnopqrstuvwxyz", "0123456789"


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A change of a test; offsets are in bytes from the start of the test.

    Attributes:
        assertion: Number of the statement within the test; changes of different ones do not undo
            each other.
        start: First byte.
        end: First byte after it.
        text: What comes instead.
        same: What says the same as before in the style of `text`; every other variant of the test
            has it in this place.
        is_plain: Whether it looks like any other test; a negated assertion does not.
    """

    assertion: int
    start: int
    end: int
    text: str
    same: str
    is_plain: bool = True

    @property
    def span(self) -> tuple[int, int]:
        """Where it is."""
        return self.start, self.end


@dataclass(frozen=True, slots=True)
class _Change:
    """One place with all that could stand there; rank 0 is the hardest to tell from the test."""

    rank: int
    span: tuple[int, int]
    same: str
    texts: Sequence[str]


def find_sites(source: str, test: TestFunction, rng: Random) -> list[list[Site]]:
    """Return changes that contradict a test, grouped by place, the best places first.

    Each expects something else of the same call, so that no solution satisfies both. What is handed
    to the code under test is left alone: another solution may be right to take more than the
    reference does. A changed constant looks like any other; a negated assertion shows what it is.
    """
    writer = _Writer(Offsets(source.encode()), _siblings(source), rng)
    found: list[tuple[int, list[Site]]] = []
    statements = [list(_changes(statement, writer)) for statement in ast.walk(test.node)]
    statements += [list(_row_changes(row, writer)) for row in expected_rows(test.node)]
    for number, changes in enumerate(statements):
        for change in changes:
            start, end = (offset - test.start for offset in change.span)
            sites = [
                Site(
                    assertion=number,
                    start=start,
                    end=end,
                    text=text,
                    same=change.same,
                    is_plain=change.rank < _SHOWS,
                )
                for text in change.texts[:MOST_ALTERNATIVES]
            ]
            found.append((change.rank, sites))
    rng.shuffle(found)
    found.sort(key=lambda ranked: (ranked[0], -len(ranked[1])))
    return [sites for _, sites in found]


@dataclass(frozen=True, slots=True)
class _Writer:
    """What changes of one file are written with.

    Attributes:
        offsets: Of the file.
        siblings: Attributes that the file uses of what it imports, by the name of that.
        rng: Makes the choices.
    """

    offsets: Offsets
    siblings: Mapping[str, Sequence[str]]
    rng: Random


def _changes(node: ast.AST, writer: _Writer) -> Iterator[_Change]:
    offsets = writer.offsets
    match node:
        case ast.Assert(test=test):
            for part in expected_parts(node):
                yield from _constants(part, writer, rank=0)
            text = offsets.text(test)
            yield _Change(_SHOWS, offsets.span(test), text, [f"not ({text})"])
        case ast.Expr(value=ast.Call(func=ast.Attribute(attr=name) as method)):
            for part in expected_parts(node):
                yield from _constants(part, writer, rank=0)
            if name in _OPPOSITES:
                _, end = offsets.span(method)
                yield _Change(_SHOWS, (end - len(name), end), name, [_OPPOSITES[name]])
        case ast.With(items=items):
            for item in items:
                yield from _exceptions(item.context_expr, writer)
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            if name.startswith(("expect", "want", "desired", "correct")):
                yield from _constants(value, writer, rank=2)


def _row_changes(row: Sequence[ast.expr], writer: _Writer) -> Iterator[_Change]:
    for value in row:
        yield from _constants(value, writer, rank=1)


def _exceptions(node: ast.expr, writer: _Writer) -> Iterator[_Change]:
    """Expect another exception."""
    match node:
        case ast.Call(func=ast.Attribute(attr=name), args=[ast.Name(id=expected) as word, *_]):
            if name in _RAISES:
                others = [other for other in _EXCEPTIONS if other != expected]
                texts = writer.rng.sample(others, len(others))
                yield _Change(1, writer.offsets.span(word), expected, texts)


def _constants(node: ast.expr, writer: _Writer, *, rank: int) -> Iterator[_Change]:
    """Change one constant, also in lists and the like, but not what is handed to a call."""
    offsets, rng = writer.offsets, writer.rng
    inner: Sequence[ast.expr | None] = ()
    match node:
        case ast.Constant(value=value):
            texts = [repr(other) for other in _alternatives(value, rng)]
            if texts:
                yield _Change(rank, offsets.span(node), repr(value), texts)
        case ast.Attribute(value=ast.Name(id=owner), attr=name):
            others = [other for other in writer.siblings.get(owner, ()) if other != name]
            if others:
                texts = [f"{owner}.{other}" for other in rng.sample(others, len(others))]
                yield _Change(rank, offsets.span(node), f"{owner}.{name}", texts)
        case ast.List(elts=parts) | ast.Tuple(elts=parts) | ast.Set(elts=parts):
            inner = parts
        case ast.Dict(keys=keys, values=values):
            inner = [*keys, *values]
        case ast.BinOp(left=left, right=right):
            inner = [left, right]
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            texts = [repr(other) for other in _alternatives(-value, rng)]
            yield _Change(rank, offsets.span(node), repr(-value), texts)
        case ast.Call(func=ast.Attribute(value=ast.Constant()), args=arguments):
            inner = arguments
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=arguments):
            inner = arguments if name in _PLAIN_TYPES else ()
    for part in inner:
        if part is not None:
            yield from _constants(part, writer, rank=rank)


def _siblings(source: str) -> dict[str, list[str]]:
    """Return the classes and the like that a file uses of what it imports, by its name there."""
    tree = ast.parse(source)
    imported = {
        (alias.asname or alias.name).partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    found: dict[str, set[str]] = {}
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id=owner), attr=name):
                if owner in imported and name[:1].isupper():
                    found.setdefault(owner, set()).add(name)
    return {owner: sorted(names) for owner, names in found.items()}


def _alternatives(value: object, rng: Random) -> Sequence[object]:
    """Return other constants of the same kind; of all, the original is no more likely than any."""
    match value:
        case bool():
            return [not value]
        case int():
            low = value - rng.randrange(_RANGE)
            low = max(low, 0) if value >= 0 else low  # lengths and the like are never negative
            numbers = [number for number in range(low, low + _RANGE) if number != value]
            return rng.sample(numbers, len(numbers))
        case float():
            before = rng.randrange(_RANGE)
            steps = [step - before for step in range(_RANGE) if step != before]
            return [value + step / 2 for step in rng.sample(steps, len(steps))]
        case str():
            return _other_texts(value, rng)
        case bytes():
            texts = _other_texts(value.decode("latin-1"), rng)
            return [text.encode("latin-1") for text in texts]
    return []


def _other_texts(text: str, rng: Random) -> list[str]:
    """Change one letter or digit for others, always the same one."""
    places = [i for i, character in enumerate(text) if character.isascii() and character.isalnum()]
    if not places:
        return [text + letter for letter in rng.sample(_LETTERS, 1)]
    place = rng.choice(places)
    character = text[place]
    kind = _DIGITS if character.isdigit() else _LETTERS
    kind = kind.upper() if character.isupper() else kind
    others = [other for other in kind if other != character]
    return [text[:place] + other + text[place + 1 :] for other in rng.sample(others, len(others))]
