"""What a test expects, as far as its text shows: sides of comparisons, and columns of its table."""

import ast
from collections import Counter
from collections.abc import Iterator, Sequence

_EQUALITIES = frozenset(
    {
        *("assertEqual", "assertEquals", "assertIs", "assertIn", "assertCountEqual"),
        *("assertDictEqual", "assertListEqual", "assertTupleEqual", "assertSetEqual"),
        *("assertSequenceEqual", "assertMultiLineEqual", "assertAlmostEqual"),
    }
)


def expected_parts(node: ast.AST) -> Iterator[ast.expr]:
    """Yield what a statement compares for being the same, or for being of a kind."""
    match node:
        case ast.Assert(test=test):
            yield from _compared(test)
        case ast.Expr(value=ast.Call(func=ast.Attribute(attr=name), args=arguments)):
            if name in _EQUALITIES:
                yield from arguments[:2]


def expected_rows(test: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[Sequence[ast.expr]]:
    """Yield for each row of a parametrized test what of it is only ever expected.

    A parameter counts if the test does nothing with it but to compare it with something.
    """
    compared = Counter(
        part.id
        for statement in ast.walk(test)
        for part in expected_parts(statement)
        if isinstance(part, ast.Name)
    )
    used = Counter(
        node.id
        for statement in test.body
        for node in ast.walk(statement)
        if isinstance(node, ast.Name)
    )
    for decorator in test.decorator_list:
        match decorator:
            case ast.Call(func=ast.Attribute(attr="parametrize"), args=[names, table, *_]):
                columns = _names(names)
                wanted = [name for name in columns if 0 < used[name] == compared[name]]
                for row in table.elts if isinstance(table, ast.List | ast.Tuple) else ():
                    values = _row(row, len(columns))
                    yield [values[columns.index(name)] for name in wanted if values]


def _compared(test: ast.expr) -> Iterator[ast.expr]:
    match test:
        case ast.BoolOp(op=ast.And(), values=values):
            for value in values:
                yield from _compared(value)
        case ast.Compare(left=left, ops=operators, comparators=others):
            if all(isinstance(operator, ast.Eq | ast.Is | ast.In) for operator in operators):
                yield left
                yield from others
        case ast.Call(func=ast.Name(id="isinstance"), args=[_, kind]):
            yield kind


def _names(node: ast.expr) -> list[str]:
    match node:
        case ast.Constant(value=str(text)):
            return [name.strip() for name in text.split(",")]
        case ast.List(elts=parts) | ast.Tuple(elts=parts):
            return [str(part.value) for part in parts if isinstance(part, ast.Constant)]
    return []


def _row(node: ast.expr, num_columns: int) -> Sequence[ast.expr]:
    """Return the values of a row; empty where it is written in another way."""
    match node:
        case ast.Call(func=ast.Attribute(attr="param"), args=values):
            found: Sequence[ast.expr] = values
        case ast.Tuple(elts=values) | ast.List(elts=values) if num_columns > 1:
            found = values
        case _:
            found = [node]
    return found if len(found) == num_columns else ()
