"""Functions as answers: called in the sandbox, compared outside of it."""

import json
from typing import Any

import pytest

from cispo.errors import SandboxUnavailableError
from cispo.types import Ungraded
from cispo.values import encode
from rewards.code import CodeGrader
from rewards.code_tests import code_tests
from rewards.truth import BadTruthError
from sandboxes.base import Limits
from sandboxes.bubblewrap import BubblewrapSandbox

LIMITS = Limits(
    cpu_seconds=2.0, wall_seconds=30.0, memory_bytes=2**27, max_processes=16, output_bytes=2**16
)


def calls(function: str, *tests: tuple[list[Any], Any], **more: object) -> dict[str, object]:
    """Make the truth of a function from pairs of arguments and result."""
    encoded = [{"args": [encode(a) for a in args], "expected": encode(e)} for args, e in tests]
    return {"function": function, "tests": encoded, **more}


ADD = calls("add", ([1, 2], 3), ([-5, 5], 0), (["a", "b"], "ab"), ([[1], [2]], [1, 2]))


@pytest.fixture
def grader() -> CodeGrader:
    try:
        sandbox = BubblewrapSandbox()
    except SandboxUnavailableError as error:
        pytest.skip(f"NO SANDBOX ON THIS MACHINE, programs are untested: {error}")
    return CodeGrader(sandbox, LIMITS, max_concurrent=2)


async def passed(grader: CodeGrader, source: str, truth: dict[str, object]) -> float:
    graded = await grader.grade(source, truth)
    assert not isinstance(graded, Ungraded), graded
    return graded["passed_fraction"]


@pytest.mark.parametrize(
    ("source", "truth"),
    [
        ("def add(a, b):\n    return a + b", ADD),
        ("print('hello')\ndef add(a, b):\n    print(a)\n    return a + b", ADD),
        ("add = lambda a, b: a + b", ADD),
        ("def add(a, b): return a + b\nif __name__ == '__main__': add(*input().split())", ADD),
        (
            "class Solution:\n  def twice(self, x): return (2 * x,)",
            calls("Solution.twice", ([2], (4,)), ([1.5], [3.0])),
        ),
        (
            "def f(x): return {k: {v} for k, v in x}",
            calls("f", ([[("a", 1)]], {"a": {1}}), ([[(2, 3)]], {2: {3}})),
        ),
        ("import math\ndef f(x): return math.sqrt(x)", calls("f", ([2], 1.41421), tolerance=1e-5)),
        ("def f(x):\n  x.append(1)\n  return x", calls("f", ([[]], [1]), ([[]], [1]))),
    ],
)
async def test_a_right_function_passes(
    grader: CodeGrader, source: str, truth: dict[str, object]
) -> None:
    assert await passed(grader, source, truth) == 1.0


HACKS = {
    "equal to everything": (
        "class A(int):\n  def __eq__(s, o): return True\n  __hash__ = int.__hash__\n"
        "def add(a, b): return A(77)"
    ),
    "no plain value": "class A:\n  def __eq__(s, o): return True\ndef add(a, b): return A()",
    "another function": "def sub(a, b): return a - b",
    "leaves early": "import os\nos._exit(0)",
    "leaves early in the call": "import sys\ndef add(a, b): sys.exit(0)",
    "replaces the encoder": (
        "import sys, values\nvalues.encode = lambda v: True\ndef add(a, b): return None"
    ),
    "replaces json": "import json\njson.dump = lambda v, s: s.write('1')\ndef add(a, b): return 0",
    "writes frames itself": (
        "import os\nfor fd in range(20):\n"
        "  try: os.write(fd, b'0 0 1\\n3')\n  except OSError: pass\nos._exit(0)"
    ),
    "looks into the driver": (
        "import sys\ndef add(a, b):\n  f = sys._getframe()\n"
        "  while f.f_back: f = f.f_back\n  return f.f_locals.get('expected')"
    ),
    "deeply nested": "def add(a, b):\n  x = []\n  for _ in range(10**5): x = [x]\n  return x",
    "never ends": "def add(a, b):\n  while True: pass",
    "raises": "def add(a, b): raise SystemExit(0)",
}


@pytest.mark.parametrize("name", list(HACKS))
async def test_a_hack_earns_nothing(grader: CodeGrader, name: str) -> None:
    assert await passed(grader, HACKS[name], ADD) == 0.0


def test_what_is_expected_never_goes_into_the_sandbox() -> None:
    tests = code_tests(
        calls(
            "f",
            ([1], "the secret answer"),
            (
                [2],
                "x",
            ),
        )
    )
    assert b"secret" not in b"".join(tests.inputs)


@pytest.mark.parametrize(
    ("name", "printed", "expected", "is_right"),
    [
        ("lines", "1 2 \n3\n\n", "1 2\n3", True),
        ("lines", "1  2", "1 2", False),
        ("tokens", " 1\n2", "1 2", True),
        ("tokens", "12", "1 2", False),
        ("floats", "Case #1: 0.33333334", "Case #1: 0.333333333", True),
        ("floats", "Case #1: 0.34", "Case #1: 0.333333333", False),
        ("floats", "nan", "1.0", False),
        ("floats", "1.0 2.0", "1.0", False),
        ("unordered_lines", "b\na\n", "a\nb", True),
        ("unordered_lines", "a\na", "a\nb", False),
        ("case_insensitive", "YES", "Yes", True),
        ("case_insensitive", "YES", "No", False),
    ],
)
def test_the_checker_decides_what_counts_as_equal(
    name: str, printed: str, expected: str, is_right: bool
) -> None:
    tests = code_tests({"tests": [{"stdin": "", "stdout": expected}], "checker": name})
    assert tests.expects(0, printed.encode()) is is_right


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        ({"tests": [{"stdin": "", "stdout": ""}], "checker": "magic"}, "checker 'magic': choose"),
        ({"tests": [{"stdin": "", "stdout": ""}], "tolerance": "x"}, "tolerance"),
        ({"function": "f", "tests": [{"args": []}]}, r"truth\['tests'\]\[0\] has no 'expected'"),
        ({"function": "f", "tests": [{"args": 1, "expected": 1}]}, "args"),
        ({"function": 1, "tests": [{"args": [], "expected": 1}]}, "function"),
        ({"function": "f", "tests": [{"args": [], "expected": {":what": 1}}]}, "expected"),
    ],
)
def test_tests_that_cannot_be_read_are_an_error_of_the_task(
    truth: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadTruthError, match=message):
        code_tests(json.loads(json.dumps(truth)))
