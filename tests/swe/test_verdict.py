"""What can be believed of what a grading jail tells."""

import json
from typing import Any

import pytest

from rewards.swe.disguise import Clone
from rewards.swe.verdict import Status, TestRun, passed_clones, read_run

NONCE = "n"


def passed(name: str) -> list[list[object]]:
    return [
        ["report", name, "setup", "passed"],
        ["call", name, "passed"],
        ["report", name, "call", "passed"],
        ["report", name, "teardown", "passed"],
    ]


def failed(name: str) -> list[list[object]]:
    return [
        ["report", name, "setup", "passed"],
        ["call", name, "failed"],
        ["report", name, "call", "failed"],
        ["report", name, "teardown", "passed"],
    ]


def run(*events: list[object], status: int = 0, end: int | None = 1) -> TestRun:
    told: list[list[object]] = [["start"], *events]
    if end is not None:
        told.append(["finish", end])
    report: dict[str, Any] = {
        "events": [json.dumps([NONCE, *event]) for event in told],
        "has_overflowed": False,
        "status": status,
    }
    return read_run(report, NONCE)


def test_a_test_passes_when_both_signals_say_so() -> None:
    read = run(*passed("a"), *failed("b"))
    assert read.statuses == {"a": Status.PASSED, "b": Status.FAILED}
    assert read.has_finished
    assert read.contradictions == ()


@pytest.mark.parametrize(
    ("events", "status"),
    [
        ([["report", "a", "setup", "skipped"], ["report", "a", "teardown", "passed"]],
         Status.SKIPPED),
        ([["report", "a", "setup", "failed"], ["report", "a", "teardown", "passed"]],
         Status.FAILED),
        ([*passed("a")[:-1], ["report", "a", "teardown", "failed"]], Status.FAILED),
        (passed("a")[:2], Status.FAILED),
        ([["report", "a", "setup", "passed"], ["call", "a", "failed"],
          ["report", "a", "call", "xfailed"], ["report", "a", "teardown", "passed"]],
         Status.XFAILED),
    ],
)  # fmt: skip
def test_what_is_neither_pass_nor_fail_is_told_apart(
    events: list[list[object]], status: Status
) -> None:
    read = run(*events)
    assert read.statuses == {"a": status}
    assert read.contradictions == ()


@pytest.mark.parametrize(
    "events",
    [
        [e for e in passed("a") if e[0] != "call"],
        failed("a")[:2] + passed("a")[2:],
        [*passed("a"), ["call", "a", "passed"]],
        [*passed("a"), ["report", "a", "call", "passed"]],
        [["report", "a"]],
        [["words"]],
        [["finish", 1]],
    ],
)
def test_signals_that_contradict_each_other_are_forged(events: list[list[object]]) -> None:
    read = run(*events)
    assert read.contradictions
    assert read.statuses.get("a", Status.FAILED) is Status.FAILED


def test_lines_without_the_nonce_are_forged() -> None:
    for line in ("nonsense", "[]", '["other", "finish", 0]', '"n"', "[" * 100_000):
        report = {"events": [line], "has_overflowed": False, "status": 0}
        assert read_run(report, NONCE).contradictions == ("a line that no runner writes",)


def test_a_run_ends_properly_or_has_not_finished() -> None:
    assert run(*passed("a"), end=0).has_finished
    assert not run(*passed("a"), end=None).has_finished
    assert not run(*passed("a"), end=2).has_finished
    assert run(*passed("a"), end=None, status=-11).contradictions == ()
    assert run(*passed("a"), status=1).contradictions == ("an end, and then another exit status",)
    assert run(*failed("a"), end=0).contradictions == ("an exit status that hides failures",)


def test_a_clone_may_pass_only_where_its_original_fails() -> None:
    rows = ("[1]", "[2]")
    clone = Clone(path="t.py", test="a", sites=(), must_fail=rows, contradicts=rows)
    clones, originals = {"t.py::x": clone}, {"t.py::x": "t.py::a"}

    def suspicious(*events: list[object]) -> list[str]:
        return passed_clones(run(*events), clones, originals)

    one, two = (passed(f"t.py::a[{n}]") for n in (1, 2))
    assert suspicious(*one, *failed("t.py::x[1]"), *two, *failed("t.py::x[2]")) == []
    assert suspicious(*failed("t.py::a[1]"), *passed("t.py::x[1]")) == []
    assert suspicious(*one, *passed("t.py::x[1]")) == ["t.py::x[1]"]
    assert suspicious(*one) == ["t.py::x[1]"]
    assert suspicious(*two, ["report", "t.py::x[2]", "setup", "skipped"]) == ["t.py::x[2]"]
