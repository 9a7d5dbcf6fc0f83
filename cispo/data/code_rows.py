"""Programming problems in the schemas of public data sets, as tasks for the verifier `code`.

A test that asserts something becomes a call with its arguments and the expected result, so that the
result can be compared outside the sandbox: an assertion that runs beside the program can be fooled.
"""

import ast
import json
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from cispo.values import encode


class UnsoundTestsError(ValueError):
    """The tests of a row cannot be turned into calls or into standard input and output."""


class Call(NamedTuple):
    """One assertion: `function(*args, **kwargs)` is `expected`, floats within the tolerance."""

    function: str
    args: list[Any]
    kwargs: dict[str, Any]
    expected: Any
    tolerance: float = 0.0


def code_task(row: Mapping[str, Any]) -> tuple[str, dict[str, object], str | None]:
    """Return the problem's text, the truth of `rewards.code_tests`, and the reference solution.

    Known are rows of MBPP (`text`, `test_list`, `code`), of HumanEval (`prompt`, `entry_point`,
    `test`, `canonical_solution`), and problems with `tests` of `input` and `output`.

    Raises:
        UnsoundTestsError: The row is of another schema, or one of its tests cannot be used.
    """
    if "test_list" in row:
        return _mbpp(row)
    if "entry_point" in row:
        return _humaneval(row)
    if "tests" in row or "input_output" in row:
        return _printing(row)
    raise UnsoundTestsError(
        f"columns {', '.join(sorted(row))} are of no known schema; give test_list (MBPP), "
        "entry_point and test (HumanEval), or tests with input and output"
    )


def parse_assert(source: str, function: str | None = None) -> Call:
    """Read `assert f(..) == value`, `assert f(..)`, `assert not f(..)`, `abs(f(..) - x) < e`.

    Args:
        source: One statement.
        function: The name that must be called; None takes any.

    Raises:
        UnsoundTestsError: It is something else.
    """
    try:
        (statement,) = ast.parse(source.strip()).body
    except (SyntaxError, ValueError) as error:
        raise UnsoundTestsError(f"not one statement: {source.strip()[:120]}") from error
    if not isinstance(statement, ast.Assert):
        raise UnsoundTestsError(f"no assertion: {source.strip()[:120]}")
    call, expected, tolerance = _sides(statement.test)
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
        raise UnsoundTestsError(f"calls no function by its name: {source.strip()[:120]}")
    if function is not None and call.func.id != function:
        raise UnsoundTestsError(f"calls {call.func.id}, not {function}: {source.strip()[:120]}")
    return Call(
        call.func.id,
        [_constant(argument) for argument in call.args],
        {str(keyword.arg): _constant(keyword.value) for keyword in call.keywords},
        expected if isinstance(expected, bool) else _constant(expected),
        tolerance,
    )


def calls_truth(calls: Sequence[Call]) -> dict[str, object]:
    """Return the truth of tests that call one function.

    Raises:
        UnsoundTestsError: They call several functions, or a value has no JSON form.
    """
    names = {call.function for call in calls}
    if len(names) != 1:
        raise UnsoundTestsError(f"tests call {', '.join(sorted(names)) or 'nothing'}, not one name")
    try:
        tests = [
            {
                "args": [encode(value) for value in call.args],
                "kwargs": {key: encode(value) for key, value in call.kwargs.items()},
                "expected": encode(call.expected),
            }
            for call in calls
        ]
    except TypeError as error:
        raise UnsoundTestsError(str(error)) from error
    truth: dict[str, object] = {"function": names.pop(), "tests": tests}
    if tolerance := max(call.tolerance for call in calls):
        truth["tolerance"] = tolerance
    return truth


def _mbpp(row: Mapping[str, Any]) -> tuple[str, dict[str, object], str | None]:
    tests = list(row["test_list"])
    truth = calls_truth([parse_assert(test) for test in tests])
    problem = f"{row.get('text') or row.get('prompt')}\n\nYour function must satisfy:\n{tests[0]}"
    return problem, truth, row.get("code")


def _humaneval(row: Mapping[str, Any]) -> tuple[str, dict[str, object], str | None]:
    module = ast.parse(row["test"])
    check = next(
        (
            node
            for node in module.body
            if isinstance(node, ast.FunctionDef) and node.name == "check"
        ),
        None,
    )
    if check is None:
        raise UnsoundTestsError("test defines no check(candidate)")
    asserts = [statement for statement in check.body if not _says_nothing(statement)]
    calls = [parse_assert(ast.unparse(_bare(statement)), "candidate") for statement in asserts]
    renamed = [call._replace(function=row["entry_point"]) for call in calls]
    solution = row.get("canonical_solution")
    problem = f"Complete this function. Answer with the whole program.\n\n{row['prompt'].strip()}"
    return problem, calls_truth(renamed), None if solution is None else row["prompt"] + solution


def _printing(row: Mapping[str, Any]) -> tuple[str, dict[str, object], str | None]:
    tests = row.get("tests")
    if tests is None:
        pairs = row["input_output"]
        pairs = json.loads(pairs) if isinstance(pairs, str) else pairs
        tests = [
            {"input": given, "output": printed}
            for given, printed in zip(pairs["inputs"], pairs["outputs"], strict=True)
        ]
    read = [
        {
            "stdin": test.get("stdin", test.get("input")),
            "stdout": test.get("stdout", test.get("output")),
        }
        for test in tests
    ]
    if not read or not all(isinstance(text, str) for test in read for text in test.values()):
        raise UnsoundTestsError("tests need input and output as text")
    truth: dict[str, object] = {"tests": read, "checker": row.get("checker", "floats")}
    problem = row.get("problem") or row.get("question")
    return f"{problem}\n\nRead standard input, print the answer.", truth, row.get("solution")


def _sides(test: ast.expr) -> tuple[ast.expr, ast.expr | bool, float]:
    """Return the call, what it must be (an expression, or True or False), and the tolerance."""
    match test:
        case ast.Compare(left=left, ops=[ast.Eq() | ast.Is()], comparators=[right]):
            return left, right, 0.0
        case ast.Compare(
            left=ast.Call(
                func=ast.Name(id="abs"), args=[ast.BinOp(left=left, op=ast.Sub(), right=right)]
            ),
            ops=[ast.Lt() | ast.LtE()],
            comparators=[bound],
        ):
            return left, right, float(_constant(bound))
        case ast.Call(
            func=ast.Attribute(value=ast.Name(id="math"), attr="isclose"),
            args=[left, right],
            keywords=[ast.keyword(arg="rel_tol" | "abs_tol", value=bound)],
        ):
            return left, right, float(_constant(bound))
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return operand, False, 0.0
        case ast.Call():
            return test, True, 0.0
    raise UnsoundTestsError(f"compares in no known way: {ast.unparse(test)[:120]}")


_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def _constant(node: ast.expr) -> Any:
    """Return the value of literals joined by + - * /; nothing is evaluated that could act."""
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, MemoryError, RecursionError):
        pass
    match node:
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            ours, theirs = _constant(left), _constant(right)
            are_numbers = isinstance(ours, (int, float)) and isinstance(theirs, (int, float))
            are_texts = isinstance(ours, str) and isinstance(theirs, str)
            if are_numbers or (are_texts and isinstance(op, ast.Add)):
                return _OPERATORS[type(op)](ours, theirs)
        case ast.List(elts=elements):
            return [_constant(element) for element in elements]
        case ast.Tuple(elts=elements):
            return tuple(_constant(element) for element in elements)
        case ast.Call(func=ast.Name(id="set"), args=[argument], keywords=[]):
            return set(_constant(argument))
    raise UnsoundTestsError(f"no constant: {ast.unparse(node)[:120]}")


def _says_nothing(statement: ast.stmt) -> bool:
    """Whether it is a text, `assert True`, or `pass`."""
    if isinstance(statement, ast.Assert):
        return isinstance(statement.test, ast.Constant) and statement.test.value is True
    is_text = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return is_text or isinstance(statement, ast.Pass)


def _bare(statement: ast.stmt) -> ast.stmt:
    """Return an assertion without its message."""
    return ast.Assert(test=statement.test) if isinstance(statement, ast.Assert) else statement
