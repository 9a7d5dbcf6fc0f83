"""What a schema says of itself: keys, defaults, meanings, and what it refuses."""

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from typing import Any, get_args, get_type_hints

_ENTRY = re.compile(r"^(\w+): (.*(?:\n {4,}.*)*)", re.MULTILINE)
_REPEATED = re.compile(
    r"\b((?:\w+\.)*)(\w+)=(?:\w+\.)*\2\b"
)  # key=value, of which both are the key
_CHECKS = ("require", "require_member")


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A key of a schema.

    Attributes:
        name: Without those above it.
        kind: Its type as Python writes it.
        default: As YAML writes it; empty where a value must be given.
        meaning: From the docstring, on one line.
        advice: What is said when a value is refused.
        below: The schema of what stands below it, if it has keys of its own.
    """

    name: str
    kind: str
    default: str
    meaning: str
    advice: Sequence[str]
    below: type | None


def summary(schema: type) -> str:
    """Return what a schema's docstring says before its keys, a paragraph a line."""
    text = inspect.cleandoc(schema.__doc__ or "").partition("Attributes:")[0].strip()
    return "\n\n".join(_line(paragraph) for paragraph in text.split("\n\n"))


def keys(schema: type) -> list[Key]:
    """Return the keys of a schema in their order; those of a schema it extends come first.

    Raises:
        ValueError: A key is not in the docstring, or the docstring has one that does not exist.
    """
    meanings: dict[str, str] = {}
    advice: dict[str, list[str]] = {}
    for part in reversed([base for base in schema.__mro__ if is_dataclass(base)]):
        meanings |= _meanings(part)
        for name, said in _advice(part):
            advice.setdefault(name, []).append(said)
    types = get_type_hints(schema)
    known = {field.name: _below(types[field.name]) for field in fields(schema)}
    unexplained = [name for name, below in known.items() if name not in meanings and not below]
    if unexplained or not set(meanings) <= set(known):
        differ = [*unexplained, *(set(meanings) - set(known))]
        raise ValueError(f"{schema.__name__}: keys and their docstring differ: {differ}")
    return [
        Key(
            name=field.name,
            kind=inspect.formatannotation(types[field.name]).replace("typing.", ""),
            default=_default(field),
            meaning=meanings.get(field.name) or _first_line(known[field.name]),
            advice=list(dict.fromkeys(advice.get(field.name, ()))),
            below=known[field.name],
        )
        for field in fields(schema)
    ]


def _first_line(schema: type | None) -> str:
    return "" if schema is None else summary(schema).partition("\n")[0]


def _below(kind: Any) -> type | None:
    """The schema in `Schema`, `list[Schema]` or `dict[str, Schema]`."""
    for candidate in (kind, *get_args(kind)):
        if isinstance(candidate, type) and is_dataclass(candidate):
            return candidate
    return None


def _default(field: Field[Any]) -> str:
    if field.default_factory is not MISSING:
        value = field.default_factory()
    elif field.default is not MISSING:
        value = field.default
    else:
        return ""
    return _yaml(value)


def _yaml(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case str():
            return str(value) or '""'
        case list():
            return f"[{', '.join(map(_yaml, value))}]"
        case dict():
            return "{" + ", ".join(f"{key}: {_yaml(item)}" for key, item in value.items()) + "}"
    return str(value)


def _meanings(schema: type) -> dict[str, str]:
    section = inspect.cleandoc(schema.__doc__ or "").partition("Attributes:\n")[2]
    entries = _ENTRY.findall(textwrap.dedent(section))
    return {name: _line(meaning) for name, meaning in entries}


def _line(text: str) -> str:
    return " ".join(text.split())


def _advice(schema: type) -> Iterator[tuple[str, str]]:
    """Yield key and advice of each refusal that the schema's own methods can make."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(schema))).body[0]
    assert isinstance(tree, ast.ClassDef)
    known: dict[str, Any] = {**vars(sys.modules[schema.__module__]), "self": _Named(schema)}
    for method in tree.body:
        if isinstance(method, ast.FunctionDef):
            yield from _of_body(method.body, known)


def _of_body(body: Sequence[ast.stmt], known: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    known = dict(known)
    for statement in body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                known[name] = _value(value, known)
            case ast.For(target=target, iter=items, body=inner):
                for bound in _bindings(target, _value(items, known)):
                    yield from _of_body(inner, {**known, **bound})
            case ast.If(body=inner, orelse=other):
                yield from _of_body([*inner, *other], known)
            case ast.Expr(value=ast.Call(func=ast.Name(id=name), args=given)) if name in _CHECKS:
                yield from _of_check(name, given, known)


def _bindings(target: ast.expr, items: Any) -> Iterator[Mapping[str, Any]]:
    names = [node.id for node in ast.walk(target) if isinstance(node, ast.Name)]
    if isinstance(items, _Text):  # what it goes over is known in a run only
        items = [tuple(map(_Text, names))]
    for item in items:
        values = item if isinstance(item, tuple) else (item,)
        yield dict(zip(names, values, strict=True))


def _of_check(
    name: str, given: Sequence[ast.expr], known: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    key = str(_value(given[1], known)).rpartition(".")[2]
    if name == "require_member":
        members = ", ".join(member.value for member in _value(given[0], known))
        yield key, f"choose one of {members}"
        return
    advice = given[3]
    choices = [advice.body, advice.orelse] if isinstance(advice, ast.IfExp) else [advice]
    for choice in choices:
        yield key, _REPEATED.sub(r"\1\2", str(_value(choice, known)))


def _value(expression: ast.expr, known: Mapping[str, Any]) -> Any:
    """Evaluate a part of our own source; what depends on a value is named as it is written."""
    if isinstance(expression, ast.JoinedStr):
        return "".join(
            str(_value(part.value if isinstance(part, ast.FormattedValue) else part, known))
            for part in expression.values
        )
    code = compile(ast.Expression(expression), "<schema>", "eval")
    try:
        return eval(code, dict(known))
    except (TypeError, ValueError, AttributeError, LookupError, NameError):
        is_opaque = isinstance(expression, ast.Call | ast.Subscript)
        return _Text("..." if is_opaque else ast.unparse(expression).replace("self.", ""))


class _Text(str):
    """Stands for a value that only a run has."""

    __slots__ = ()

    def __getattr__(self, name: str) -> "_Text":
        return _Text(f"{self}.{name}")


class _Named:
    """Stands for a schema's object: each of its values is called as its key."""

    def __init__(self, schema: type) -> None:
        self.__dataclass_fields__ = schema.__dataclass_fields__  # type: ignore[attr-defined]

    def __getattr__(self, name: str) -> _Text:
        return _Text(name)
