"""Where the tests lie in a test file."""

import ast
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


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


class Offsets:
    """Turns a line and a column of a syntax tree into an offset."""

    def __init__(self, source: bytes) -> None:
        """Take the text of a file in UTF-8."""
        self._source = source
        self._starts = [0]
        for line in source.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))

    def offset(self, line: int, column: int) -> int:
        """Return the offset of a place; lines count from 1, columns from 0."""
        return self._starts[line - 1] + column

    def after(self, line: int) -> int:
        """Return the offset at which the line after this one begins."""
        return self._starts[min(line, len(self._starts) - 1)]

    def text(self, node: ast.expr) -> str:
        """Return what a node is in the file."""
        return self._source[slice(*self.span(node))].decode()

    def span(self, node: ast.expr) -> tuple[int, int]:
        """Return where a node begins and where it has ended."""
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
    lines = Offsets(source.encode())
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
    body: Sequence[ast.stmt], scope: tuple[str, ...], lines: Offsets, source: bytes
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
