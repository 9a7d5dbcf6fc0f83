"""Where the tests lie in a test file, and where a small change would make each of them fail."""

import ast
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

_OPPOSITES = {
    "assertEqual": "assertNotEqual",
    "assertTrue": "assertFalse",
    "assertIn": "assertNotIn",
    "assertIs": "assertIsNot",
    "assertIsNone": "assertIsNotNone",
    "assertIsInstance": "assertNotIsInstance",
}
_OPPOSITES |= {after: before for before, after in _OPPOSITES.items()}
_EXCEPTIONS = ("KeyError", "TypeError", "ValueError", "AttributeError", "IndexError", "OSError")
_EQUALITIES = frozenset(
    {
        *("assertEqual", "assertEquals", "assertIs", "assertIn", "assertCountEqual"),
        *("assertDictEqual", "assertListEqual", "assertTupleEqual", "assertSetEqual"),
        *("assertSequenceEqual", "assertMultiLineEqual", "assertAlmostEqual"),
    }
)
_PLAIN_TYPES = frozenset(
    {
        *("list", "tuple", "set", "frozenset", "dict", "sorted", "str", "int", "float", "bytes"),
        *("Decimal", "Fraction", "OrderedDict", "date", "datetime", "timedelta", "approx"),
    }
)
_RAISES = ("raises", "assertRaises", "assertRaisesRegex", "warns", "assertWarns")


@dataclass(frozen=True, slots=True, kw_only=True)
class TestFunction:
    """One test as it stands in its file; offsets are in bytes of UTF-8.

    Attributes:
        scope: Names of the classes around it, joined by `::`; empty at the top.
        name: Its own name.
        start: Where its first decorator's line begins.
        end: Where the line after it begins.
        name_start: Where its name begins.
        can_be_renamed: Whether nothing else in the file knows it by name.
        node: Its syntax tree.
    """

    __test__ = False  # it is no test of pytest's

    scope: str
    name: str
    start: int
    end: int
    name_start: int
    can_be_renamed: bool
    node: ast.FunctionDef | ast.AsyncFunctionDef

    @property
    def qualified(self) -> str:
        """Name with its classes."""
        return f"{self.scope}::{self.name}" if self.scope else self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A change of a test that may make it fail.

    Attributes:
        assertion: Number of the statement within the test; changes of different ones do not undo
            each other.
        start: First byte, from the start of the test.
        end: First byte after it.
        text: What comes instead.
    """

    assertion: int
    start: int
    end: int
    text: str


class _Lines:
    """Turns a line and a column of a syntax tree into an offset."""

    def __init__(self, source: bytes) -> None:
        self._source = source
        self._starts = [0]
        for line in source.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))

    def offset(self, line: int, column: int) -> int:
        return self._starts[line - 1] + column

    def after(self, line: int) -> int:
        return self._starts[min(line, len(self._starts) - 1)]

    def text(self, node: ast.expr) -> bytes:
        return self._source[slice(*self.span(node))]

    def span(self, node: ast.expr) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        start = self.offset(node.lineno, node.col_offset)
        return start, self.offset(node.end_lineno, node.end_col_offset)


def find_tests(source: str) -> list[TestFunction]:
    """Return the test functions and methods of a file, in order.

    Raises:
        SyntaxError: It is no Python.
    """
    tree = ast.parse(source)
    lines = _Lines(source.encode())
    known = _names_in_use(tree)
    bases = {
        base.id
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for base in node.bases
        if isinstance(base, ast.Name)
    }
    found = list(_walk(tree.body, (), lines, source.encode()))
    times = Counter((scope, node.name) for scope, node, _ in found)
    return [
        TestFunction(
            scope="::".join(scope),
            name=node.name,
            start=lines.offset(min([d.lineno for d in node.decorator_list] + [node.lineno]), 0),
            end=lines.after(node.end_lineno or node.lineno),
            name_start=name_start,
            can_be_renamed=times[scope, node.name] == 1
            and node.name not in known
            and not bases.intersection(scope),
            node=node,
        )
        for scope, node, name_start in found
    ]


def _walk(
    body: Sequence[ast.stmt], scope: tuple[str, ...], lines: _Lines, source: bytes
) -> Iterator[tuple[tuple[str, ...], ast.FunctionDef | ast.AsyncFunctionDef, int]]:
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield from _walk(node.body, (*scope, node.name), lines, source)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if node.name.startswith("test"):
                head = lines.offset(node.lineno, node.col_offset)
                yield scope, node, source.index(node.name.encode(), source.index(b"def", head) + 3)
        elif isinstance(node, ast.If | ast.Try):
            yield from _walk(node.body, scope, lines, source)


def _names_in_use(tree: ast.Module) -> set[str]:
    """Every name by which one part of a file may know another."""
    names: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
                names.add(name)
            case ast.Constant(value=str(text)) if text.isidentifier():
                names.add(text)
    return names


def find_sites(source: str, test: TestFunction, rng: Random) -> list[Site]:
    """Return changes that contradict the test, the hardest to tell apart from it first.

    Each expects something else of the same call, so that no solution satisfies both. What is handed
    to the code under test is left alone: another solution may be right to take more than the
    reference does. A changed constant looks like any other; a negated assertion shows what it is.
    """
    lines = _Lines(source.encode())
    found: list[tuple[int, Site]] = []
    for number, statement in enumerate(ast.walk(test.node)):
        for rank, (start, end), text in _changes(statement, lines, rng):
            site = Site(assertion=number, start=start - test.start, end=end - test.start, text=text)
            found.append((rank, site))
    rng.shuffle(found)
    found.sort(key=lambda ranked: ranked[0])
    return [site for _, site in found]


Change = tuple[int, tuple[int, int], str]
"""Rank, 0 is the best; span in the file; new text."""


def _changes(node: ast.AST, lines: _Lines, rng: Random) -> Iterator[Change]:
    match node:
        case ast.Assert(test=test):
            for constant in _expected(test):
                yield from _constants(constant, lines, rng, rank=0)
            start, end = lines.span(test)
            yield 3, (start, end), f"not ({lines.text(test).decode()})"
        case ast.Expr(value=ast.Call(func=ast.Attribute(attr=name) as method, args=arguments)):
            if name in _EQUALITIES:
                for argument in arguments[:2]:
                    yield from _constants(argument, lines, rng, rank=0)
            if name in _OPPOSITES:
                _, end = lines.span(method)
                yield 3, (end - len(name), end), _OPPOSITES[name]
        case ast.With(items=items):
            for item in items:
                yield from _exceptions(item.context_expr, lines, rng)
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            if name.startswith(("expect", "want", "desired", "correct")):
                yield from _constants(value, lines, rng, rank=2)


def _expected(test: ast.expr) -> Iterator[ast.expr]:
    """Yield what stands on both sides of comparisons that say what something is."""
    match test:
        case ast.BoolOp(op=ast.And(), values=values):
            for value in values:
                yield from _expected(value)
        case ast.Compare(left=left, ops=operators, comparators=others):
            if all(isinstance(operator, ast.Eq | ast.Is | ast.In) for operator in operators):
                yield left
                yield from others


def _exceptions(node: ast.expr, lines: _Lines, rng: Random) -> Iterator[Change]:
    """Expect another exception."""
    match node:
        case ast.Call(func=ast.Attribute(attr=name), args=[ast.Name() as expected, *_]):
            if name in _RAISES:
                others = [other for other in _EXCEPTIONS if other != expected.id]
                yield 1, lines.span(expected), rng.choice(others)


def _constants(node: ast.expr, lines: _Lines, rng: Random, *, rank: int) -> Iterator[Change]:
    """Change one constant, also in lists and the like, but not what is handed to a call."""
    match node:
        case ast.Constant(value=value):
            if (text := _perturbed(value, rng)) is not None:
                yield rank, lines.span(node), text
        case ast.List(elts=parts) | ast.Tuple(elts=parts) | ast.Set(elts=parts):
            for part in parts:
                yield from _constants(part, lines, rng, rank=rank)
        case ast.Dict(keys=keys, values=values):
            for item in (*keys, *values):
                if item is not None:
                    yield from _constants(item, lines, rng, rank=rank)
        case ast.BinOp(left=left, right=right):
            yield from _constants(left, lines, rng, rank=rank)
            yield from _constants(right, lines, rng, rank=rank)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            yield from _constants(operand, lines, rng, rank=rank)
        case ast.Call(func=ast.Attribute(value=ast.Constant()), args=arguments):
            for argument in arguments:
                yield from _constants(argument, lines, rng, rank=rank)
        case ast.Call(func=ast.Name(id=name), args=arguments) if name in _PLAIN_TYPES:
            for argument in arguments:
                yield from _constants(argument, lines, rng, rank=rank)


def _perturbed(value: object, rng: Random) -> str | None:
    """Return the source text of another constant of the same kind."""
    match value:
        case bool():
            return repr(not value)
        case int():
            return repr(value + rng.choice((-2, -1, 1, 2, 3)))
        case float():
            return repr(value + rng.choice((-1.5, -1.0, 0.5, 1.0, 2.0)))
        case str():
            return repr(_other_text(value, rng))
        case bytes():
            return repr(_other_text(value.decode("latin-1"), rng).encode("latin-1"))
    return None


def _other_text(text: str, rng: Random) -> str:
    """Change one letter or digit for another, so that the text keeps its look."""
    places = [i for i, character in enumerate(text) if character.isascii() and character.isalnum()]
    letters = "abcdefghijklmnopqrstuvwxyz"
    if not places:
        return text + rng.choice(letters)
    place = rng.choice(places)
    character = text[place]
    kind = "0123456789" if character.isdigit() else letters
    other = rng.choice([c for c in kind if c != character.lower()])
    return text[:place] + (other.upper() if character.isupper() else other) + text[place + 1 :]
