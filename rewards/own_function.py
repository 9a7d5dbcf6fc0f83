"""Verifiers that users bring: a function in a Python file, named `FILE.py:FUNCTION`.

It is called with what a rollout answers and the task's truth, in the killable grader process, and
returns a number in 0..1, a bool, or named parts with `correct` among them (stdlib only).
"""

import ast
import importlib.util
import math
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from cispo.errors import ConfigError
from rewards.truth import BadTruthError

_MARK = ".py:"
_KEY = "reward.verifiers"

Grader = Callable[[str, Mapping[str, Any]], Mapping[str, float]]


class BrokenVerifierError(BadTruthError):
    """A user's verifier raised or returned what is no verdict, which is not the policy's fault."""


def is_own(reference: str) -> bool:
    """Whether a verifier is a function in a file."""
    return _MARK in reference


def own_functions(references: Iterable[str], *, taken: Iterable[str]) -> dict[str, str]:
    """Return users' verifiers by the name that tasks give: that of the function.

    Files are read and not run.

    Args:
        references: `FILE.py:FUNCTION`; names of other verifiers are passed over.
        taken: Names that a function may not have.

    Returns:
        The references with the full path of the file.

    Raises:
        ConfigError: There is no such file or function, it is not Python, takes other arguments, or
            its name is taken.
    """
    found: dict[str, str] = {}
    for reference in filter(is_own, references):
        path, function = _split(reference)
        _check(path, function, reference)
        if function in taken or function in found:
            raise ConfigError(f"{_KEY}: {reference}: there is a verifier {function!r} already")
        found[function] = f"{path}:{function}"
    return found


def load(reference: str) -> Grader:
    """Run the file and return its function, whose failures are `BrokenVerifierError`.

    The file's folder is searched for modules, after all others.

    Raises:
        ConfigError: The file cannot be run; the message names its line.
    """
    path, function = _split(reference)
    _check(path, function, reference)
    name = str(path)  # no module that somebody imports is called so
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.append(str(path.parent))
    try:
        spec.loader.exec_module(module)
        called = getattr(module, function)
    except Exception as error:  # whatever the user's file raises, the user has to hear of it
        raise ConfigError(f"{_KEY}: {reference}: {_told(error, path)}") from error

    def grade(answer: str, truth: Mapping[str, Any]) -> Mapping[str, float]:
        try:
            returned = called(answer, truth)
        except Exception as error:  # a defect of the verifier and not of the answer; it is counted
            raise BrokenVerifierError(_told(error, path)) from error
        return parts_of(returned)

    return grade


def parts_of(returned: object) -> Mapping[str, float]:
    """Return what a user's verifier returned as parts of a verdict.

    A number is the `score`, and `correct` where it is 1.

    Raises:
        BrokenVerifierError: It is no verdict.
    """
    if isinstance(returned, bool | int | float):
        score = _part(returned)
        return {"correct": float(score == 1.0), "score": score}
    if isinstance(returned, Mapping) and "correct" in returned:
        return {str(name): _part(value) for name, value in returned.items()}
    raise BrokenVerifierError(
        f"returned {returned!r:.80}; return a number in 0..1, or a dict with 'correct' in it"
    )


def _part(value: object) -> float:
    if isinstance(value, bool | int | float) and math.isfinite(value) and 0 <= value <= 1:
        return float(value)
    raise BrokenVerifierError(f"returned {value!r:.80}, which is no number in 0..1")


def _split(reference: str) -> tuple[Path, str]:
    file, _, function = reference.rpartition(":")
    return Path(file).expanduser().absolute(), function


def _check(path: Path, function: str, reference: str) -> None:
    """Read the file without running it."""
    try:
        tree = ast.parse(path.read_bytes(), filename=str(path))
    except OSError as error:
        raise ConfigError(
            f"{_KEY}: {reference}: {path} cannot be read ({error.strerror}); reward workers need "
            "it on every host, under the same path"
        ) from error
    except (SyntaxError, ValueError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise ConfigError(f"{_KEY}: {path}{line}: not Python ({error.args[0]})") from error
    defined = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    if function not in defined:
        raise ConfigError(
            f"{_KEY}: {path} defines no function {function!r}; it defines "
            f"{', '.join(defined) or 'none'}"
        )
    arguments = defined[function].args
    num_taken = len(arguments.posonlyargs) + len(arguments.args)
    if num_taken - len(arguments.defaults) > 2 or (num_taken < 2 and arguments.vararg is None):
        raise ConfigError(
            f"{_KEY}: {path}, line {defined[function].lineno}: {function} must take the answer "
            "and the truth of the task"
        )


def _told(error: Exception, path: Path) -> str:
    """Name the last line of the user's file that an error passed through."""
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == str(path)
    ]
    where = f"{path}, line {lines[-1]}" if lines else str(path)
    return f"{where}: {type(error).__name__}: {error}"
