"""Exact arithmetic over text: a parser for + - * / % and brackets that can do nothing else."""

import ast
from fractions import Fraction

MAX_CHARACTERS = 512
_MAX_DEPTH = 40


class NotArithmeticError(ValueError):
    """The text is no arithmetic expression, or has no value."""


def evaluate(text: str, *, operators: str = "+-*/%") -> Fraction:
    """Return the exact value of an expression over non-negative integers.

    Args:
        text: The expression.
        operators: Those that may occur; a minus sign in front of a term needs `-`.

    Raises:
        NotArithmeticError: It is none, uses something else, or divides by zero.
    """
    return _value(_parse(text).body, frozenset(operators), 0)


def integers(text: str) -> list[int]:
    """Return the integers of an expression in their order.

    Raises:
        NotArithmeticError: It is no expression.
    """
    leaves = [node for node in ast.walk(_parse(text)) if isinstance(node, ast.Constant)]
    leaves.sort(key=lambda leaf: (leaf.lineno, leaf.col_offset))
    return [leaf.value for leaf in leaves if type(leaf.value) is int]


def _parse(text: str) -> ast.Expression:
    if len(text) > MAX_CHARACTERS:
        raise NotArithmeticError(f"longer than {MAX_CHARACTERS} characters")
    try:
        return ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise NotArithmeticError("no expression") from error


def _value(node: ast.expr, operators: frozenset[str], depth: int) -> Fraction:
    if depth > _MAX_DEPTH:
        raise NotArithmeticError("nested too deeply")
    match node:
        case ast.Constant(value=value) if type(value) is int:
            return Fraction(value)
        case ast.UnaryOp(op=ast.USub(), operand=operand) if "-" in operators:
            return -_value(operand, operators, depth + 1)
        case ast.BinOp(left=left, op=op, right=right):
            symbol = _SYMBOLS.get(type(op), "")
            if symbol and symbol in operators:
                ours = _value(left, operators, depth + 1)
                return _apply(symbol, ours, _value(right, operators, depth + 1))
    raise NotArithmeticError(f"{type(node).__name__} is not allowed")


_SYMBOLS: dict[type[ast.operator], str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.Mod: "%",
}


def _apply(symbol: str, left: Fraction, right: Fraction) -> Fraction:
    if symbol in "/%" and right == 0:
        raise NotArithmeticError("division by zero")
    match symbol:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
        case "/":
            return left / right
    return left % right
