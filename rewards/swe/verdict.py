"""Decides from what a grading jail told what became of each test, and whether somebody cheated."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from rewards.swe.disguise import Clone

_FINISHED = (0, 1)
"""Exit statuses of pytest after which all tests have run: all passed, some failed."""


class Status(StrEnum):
    """What became of one test."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    XFAILED = "xfailed"


@dataclass(frozen=True, slots=True, kw_only=True)
class TestRun:
    """What a run of tests shows, as far as it can be believed.

    Attributes:
        statuses: By id of the test in the run; tests that told nothing are not there.
        collected: Ids of all tests in their order, as the runner says.
        has_finished: Whether the run came to its proper end.
        contradictions: Signs that somebody forged results.
    """

    __test__ = False  # it is no test of pytest's

    statuses: Mapping[str, Status] = field(default_factory=dict)
    collected: tuple[str, ...] = ()
    has_finished: bool = False
    contradictions: tuple[str, ...] = ()


def read_run(report: Mapping[str, Any], nonce: str) -> TestRun:
    """Read what the driver reported of a run.

    Each test speaks twice: when its call ends, and when pytest reports its phases. It has passed
    only if both say so.
    """
    contradictions: list[str] = []
    calls: dict[str, list[str]] = {}
    phases: dict[str, dict[str, list[str]]] = {}
    finished: list[int] = []
    collected: tuple[str, ...] = ()
    for line in report["events"]:
        match _event(line, nonce):
            case ["call", str(name), str(outcome)]:
                calls.setdefault(name, []).append(outcome)
            case ["report", str(name), str(when), str(outcome)]:
                phases.setdefault(name, {}).setdefault(when, []).append(outcome)
            case ["finish", int(exit_status)]:
                finished.append(exit_status)
            case ["collected", list(names)]:
                collected = tuple(map(str, names))
            case ["start"]:
                pass
            case _:
                contradictions.append("a line that no runner writes")
    statuses: dict[str, Status] = {}
    for name in calls.keys() | phases.keys():
        status = _status(calls.get(name, []), phases.get(name, {}))
        if status is None:
            contradictions.append("the two signals of a test differ")
        statuses[name] = status or Status.FAILED
    has_finished = len(finished) == 1 and finished[0] in _FINISHED
    if len(finished) > 1:
        contradictions.append("more than one end")
    if has_finished and report["status"] != 0:
        contradictions.append("an end, and then another exit status")
    has_failures = Status.FAILED in statuses.values()
    if finished == [0] and has_failures:
        contradictions.append("an exit status that hides failures")
    return TestRun(
        statuses=statuses,
        collected=collected,
        has_finished=has_finished and not report["has_overflowed"],
        contradictions=tuple(dict.fromkeys(contradictions)),
    )


def passed_clones(
    run: TestRun, clones: Mapping[str, Clone], originals: Mapping[str, str]
) -> list[str]:
    """Return the clones that did not fail although the tests that they contradict passed.

    A wrong solution may pass a clone, but not the test itself, too.

    Args:
        run: The run.
        clones: Clones by their id without parameters.
        originals: Id without parameters of a clone's original in the run, by the clone's.
    """
    suspicious = []
    for nodeid, clone in clones.items():
        for parameters, same_row in zip(clone.must_fail, clone.contradicts, strict=True):
            original = run.statuses.get(f"{originals[nodeid]}{same_row}")
            if original is not Status.PASSED:
                continue
            if run.statuses.get(f"{nodeid}{parameters}") is not Status.FAILED:
                suspicious.append(f"{nodeid}{parameters}")
    return suspicious


def _event(line: str, nonce: str) -> list[Any] | None:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, list) or not event or event[0] != nonce:
        return None
    return event[1:]


def _status(calls: list[str], phases: Mapping[str, list[str]]) -> Status | None:
    """Return what became of a test, or None where its signals contradict each other."""
    if len(calls) > 1 or any(len(outcomes) > 1 for outcomes in phases.values()):
        return None
    setup, call, teardown = (phases.get(when, [""])[0] for when in ("setup", "call", "teardown"))
    called = calls[0] if calls else ""
    if setup in ("skipped", "xfailed") and not called:
        return Status.SKIPPED
    if (call == "passed") and called != "passed":
        return None
    if setup == call == teardown == "passed":
        return Status.PASSED
    if setup == teardown == "passed":
        if call == "skipped" and called == "skipped":
            return Status.SKIPPED
        if call == "xfailed" and called == "failed":
            return Status.XFAILED
    return Status.FAILED
