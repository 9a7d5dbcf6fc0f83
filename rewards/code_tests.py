"""Hidden tests of a program: what goes into the sandbox, what must come out (stdlib only)."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cispo.values import decode, equal
from rewards.checkers import Checker, checker
from rewards.truth import BadTruthError, truth_field

DEFAULT_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class CodeTests:
    """Tests of one program.

    Attributes:
        inputs: What each test gives the driver: standard input, or arguments as JSON.
        function: What is called, `name` or `Class.method`; empty where programs read and print.
        expects: Whether the output of test i is right.
        output_bytes: Length of the longest right outputs together.
    """

    inputs: tuple[bytes, ...]
    function: str
    expects: Callable[[int, bytes], bool]
    output_bytes: int


def code_tests(truth: Mapping[str, Any]) -> CodeTests:
    """Read the tests of a task.

    Args:
        truth: `{"tests": [{"stdin": text, "stdout": text}, ...]}`, with `"checker"` (see
            `rewards.checkers`); or `{"function": name, "tests": [{"args": [...], "kwargs": {...},
            "expected": value}, ...]}` with values as `cispo.values.encode` writes them. Both may
            have a `"tolerance"` of floats; that of calls is 0 unless it is given.

    Raises:
        BadTruthError: A field is missing or of another kind.
    """
    tests = truth_field(truth, "tests", list)
    if not tests:
        raise BadTruthError("truth['tests'] is empty")
    if not all(isinstance(test, dict) for test in tests):
        raise BadTruthError("truth['tests'] holds something else than objects")
    if "function" in truth:
        return _call_tests(truth, tests)
    return _printing_tests(truth, tests)


def _printing_tests(truth: Mapping[str, Any], tests: Sequence[Mapping[str, Any]]) -> CodeTests:
    tolerance = _tolerance(truth, DEFAULT_TOLERANCE)
    try:
        compare: Checker = checker(truth.get("checker", "lines"))
    except ValueError as error:
        raise BadTruthError(f"truth['checker']: {error}") from error
    expected = [truth_field(test, "stdout", str) for test in tests]

    def expects(index: int, output: bytes) -> bool:
        return compare(output.decode(errors="replace"), expected[index], tolerance)

    return CodeTests(
        inputs=tuple(truth_field(test, "stdin", str).encode() for test in tests),
        function="",
        expects=expects,
        output_bytes=sum(2 * len(text.encode()) for text in expected),
    )


def _call_tests(truth: Mapping[str, Any], tests: Sequence[Mapping[str, Any]]) -> CodeTests:
    function = truth_field(truth, "function", str)
    tolerance = _tolerance(truth, 0.0)
    expected = []
    for index, test in enumerate(tests):
        if "expected" not in test:
            raise BadTruthError(f"truth['tests'][{index}] has no 'expected'")
        expected.append(_decoded(test["expected"], f"truth['tests'][{index}]['expected']"))

    def expects(index: int, output: bytes) -> bool:
        try:
            result = decode(json.loads(output))
        except (ValueError, RecursionError):  # the program wrote this itself
            return False
        return equal(result, expected[index], tolerance=tolerance)

    arguments = [
        {"args": truth_field(test, "args", list), "kwargs": test.get("kwargs", {})}
        for test in tests
    ]
    return CodeTests(
        inputs=tuple(json.dumps(each).encode() for each in arguments),
        function=function,
        expects=expects,
        output_bytes=sum(2 * len(json.dumps(test["expected"])) for test in tests),
    )


def _decoded(encoded: object, where: str) -> object:
    try:
        return decode(encoded)
    except ValueError as error:
        raise BadTruthError(f"{where}: {error}") from error


def _tolerance(truth: Mapping[str, Any], default: float) -> float:
    value = truth.get("tolerance", default)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < 1:
        raise BadTruthError(f"truth['tolerance'] is {value!r}, not a number in 0..1")
    return float(value)
