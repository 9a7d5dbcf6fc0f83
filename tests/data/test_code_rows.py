"""Programming problems of public schemas, in rows of our own making."""

import json
from pathlib import Path
from typing import Any

import pytest

from cispo.config import SourceConfig
from cispo.data.code_rows import Call, UnsoundTestsError, calls_truth, code_task, parse_assert
from cispo.data.rows import read_rows
from cispo.errors import TaskFileError


@pytest.mark.parametrize(
    ("source", "call"),
    [
        ("assert f(1, [2]) == 3", Call("f", [1, [2]], {}, 3)),
        ("assert f(x='a') == ('b', {1})", Call("f", [], {"x": "a"}, ("b", {1}))),
        ("assert f(-1) is None, 'message'", Call("f", [-1], {}, None)),
        ("assert f()", Call("f", [], {}, True)),
        ("assert not f()", Call("f", [], {}, False)),
        ("assert abs(f(2) - 0.5) < 1e-6", Call("f", [2], {}, 0.5, 1e-6)),
        ("assert math.isclose(f(2), 0.5, rel_tol=0.001)", Call("f", [2], {}, 0.5, 0.001)),
        ("assert f(3 * 7, 1.0 / 4) == 'a' + 'b'", Call("f", [21, 0.25], {}, "ab")),
        ("assert f([1 + 1]) == set([1])", Call("f", [[2]], {}, {1})),
    ],
)
def test_an_assertion_becomes_a_call_and_its_result(source: str, call: Call) -> None:
    assert parse_assert(source) == call


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("assert f(1) == g(1)", "no constant"),
        ("assert f(__import__('os').getcwd()) == 1", "no constant"),
        ("assert f('a' * 10**9) == 1", "no constant"),
        ("assert f(1) < 2", "compares in no known way"),
        ("assert tuple(f(1)) == 1 and x", "compares in no known way"),
        ("assert a.f(1) == 1", "calls no function by its name"),
        ("f(1)", "no assertion"),
        ("assert f(1) == 1; x = 2", "not one statement"),
        ("assert f(", "not one statement"),
    ],
)
def test_other_tests_are_refused_and_nothing_of_them_runs(source: str, words: str) -> None:
    with pytest.raises(UnsoundTestsError, match=words):
        parse_assert(source)


def test_one_function_is_called() -> None:
    with pytest.raises(UnsoundTestsError, match="f, g"):
        calls_truth([Call("f", [], {}, 1), Call("g", [], {}, 1)])
    assert calls_truth([Call("f", [(1,)], {}, 2, 0.1), Call("f", [2], {}, 3)]) == {
        "function": "f",
        "tests": [
            {"args": [{":tuple": [1]}], "kwargs": {}, "expected": 2},
            {"args": [2], "kwargs": {}, "expected": 3},
        ],
        "tolerance": 0.1,
    }


ASSERTING = {
    "task_id": 7,
    "text": "Write a function that doubles.",
    "test_list": ["assert double(2) == 4", "assert double('a') == 'aa'"],
    "code": "def double(x): return x + x",
}
COMPLETING: dict[str, Any] = {
    "task_id": "own/0",
    "prompt": 'def half(x):\n    """Halve x."""\n',
    "entry_point": "half",
    "test": "def check(candidate):\n    assert True\n    assert candidate(2) == 1, 'm'\n",
    "canonical_solution": "    return x / 2\n",
}
PRINTING = {
    "id": "sum",
    "problem": "Add two numbers.",
    "tests": [{"input": "1 2\n", "output": "3\n"}],
}


def test_the_schemas_are_read_with_their_reference_solutions() -> None:
    problem, truth, solution = code_task(ASSERTING)
    assert "assert double(2) == 4" in problem
    assert "'aa'" not in problem
    assert truth["function"] == "double"
    assert solution == ASSERTING["code"]

    problem, truth, solution = code_task(COMPLETING)
    assert "def half" in problem
    assert truth["function"] == "half"
    assert solution is not None
    assert solution.endswith("return x / 2\n")

    problem, truth, solution = code_task(PRINTING)
    assert truth == {"tests": [{"stdin": "1 2\n", "stdout": "3\n"}], "checker": "floats"}
    assert solution is None

    packed = {"question": "q", "input_output": json.dumps({"inputs": ["1"], "outputs": ["2"]})}
    assert code_task(packed)[1]["tests"] == [{"stdin": "1", "stdout": "2"}]


def test_a_file_of_such_rows_is_a_table_of_tasks(tmp_path: Path) -> None:
    path = tmp_path / "code.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in (ASSERTING, COMPLETING, PRINTING)))
    table = read_rows(SourceConfig(kind="jsonl", name=str(path), verifier="code"))
    assert [table[i].task_id for i in range(3)] == ["7", "own/0", "sum"]
    assert table[0].solution == ASSERTING["code"]
    assert all(table[i].verifier == "code" for i in range(3))


def test_a_row_without_usable_tests_is_named(tmp_path: Path) -> None:
    path = tmp_path / "code.jsonl"
    bad = {**ASSERTING, "test_list": ["assert double(x) == 4"]}
    path.write_text(json.dumps(ASSERTING) + "\n" + json.dumps(bad) + "\n")
    with pytest.raises(TaskFileError, match="line 2: no constant"):
        read_rows(SourceConfig(kind="jsonl", name=str(path), verifier="code"))
