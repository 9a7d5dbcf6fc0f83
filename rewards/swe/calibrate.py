"""Runs an instance's tests on its own solution, and learns what grading relies on.

The reference run says which tests can be demanded, and which clones of them fail as they must. It
is made once for an instance and kept beside the environments.
"""

import json
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from cispo.data.swe.instance import Instance
from rewards.swe.disguise import Clone, Disguise, bits_a_test, disguise
from rewards.swe.sites import Site, find_sites
from rewards.swe.test_source import find_tests
from rewards.swe.verdict import Status, TestRun
from sandboxes.swe.environment import Environment

_PLACES_A_TEST = 3
_CANDIDATES = 128
_FORMAT = 4


class UnsoundError(Exception):
    """An instance cannot be graded: its own solution does not do what it should."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What is known of an instance's tests.

    Attributes:
        fail_to_pass: Ids of tests that must pass, and failed before.
        pass_to_pass: Ids of tests that must go on passing.
        clones: Clones with one change each that fail under the reference solution.
        cpu_seconds: CPU time of the reference run.
    """

    fail_to_pass: tuple[str, ...]
    pass_to_pass: tuple[str, ...]
    clones: tuple[Clone, ...]
    cpu_seconds: float

    def save(self, path: Path) -> None:
        """Write it, all or nothing."""
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
        scratch.write_text(json.dumps({"format": _FORMAT, **asdict(self)}), encoding="utf-8")
        scratch.rename(path)

    @classmethod
    def load(cls, path: Path) -> "Calibration | None":
        """Read it, or return None where there is none of this format."""
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        if document["format"] != _FORMAT:
            return None
        return cls(
            fail_to_pass=tuple(document["fail_to_pass"]),
            pass_to_pass=tuple(document["pass_to_pass"]),
            clones=tuple(_clone(clone) for clone in document["clones"]),
            cpu_seconds=document["cpu_seconds"],
        )


def disguised_files(
    environment: Environment,
    instance: Instance,
    clones: Sequence[Clone],
    rng: Random,
    *,
    puts_clones_first: bool = False,
) -> dict[str, Disguise]:
    """Disguise every file that has tests of an instance; see `disguise`.

    Raises:
        UnsoundError: A test file is no Python, or is not there.
    """
    paths = {test.partition("::")[0] for test in (*instance.fail_to_pass, *instance.pass_to_pass)}
    try:
        return {
            path: disguise(
                environment.tests[path], path, clones, rng, puts_clones_first=puts_clones_first
            )
            for path in sorted(paths)
        }
    except SyntaxError as error:
        raise UnsoundError(f"a test file is no Python: {error}") from error


def candidates(
    environment: Environment, instance: Instance, rng: Random, *, num_bits: int
) -> list[Clone]:
    """Propose clones: several of each test that must turn to pass, where these are few.

    Args:
        environment: Has the tests.
        instance: Names them.
        rng: Makes the changes.
        num_bits: See `rewards.swe.disguise.choose_clones`.
    """
    first = {test.partition("[")[0] for test in instance.fail_to_pass}
    known = first | {test.partition("[")[0] for test in instance.pass_to_pass}
    most = 2 ** bits_a_test(len(first), num_bits=num_bits) - 1
    proposed: list[tuple[bool, Clone]] = []
    for path in sorted({test.partition("::")[0] for test in known}):
        source = environment.tests[path]
        for test in find_tests(source):
            name = f"{path}::{test.qualified}"
            if not test.can_be_renamed or name not in known:
                continue
            places = find_sites(source, test, rng)[:_PLACES_A_TEST]
            sites = [site for place in places for site in place[: most if name in first else 1]]
            clones = [Clone(path=path, test=test.qualified, sites=(site,)) for site in sites]
            proposed += [(name not in first, clone) for clone in clones]
    proposed.sort(key=lambda ranked: ranked[0])
    return [clone for _, clone in proposed[:_CANDIDATES]]


def calibrate(
    instance: Instance, run: TestRun, files: dict[str, Disguise], *, cpu_seconds: float
) -> Calibration:
    """Learn from the reference run.

    Raises:
        UnsoundError: A test that should pass under the reference solution did not.
    """
    if not run.has_finished:
        raise UnsoundError("the tests did not run to their end with the reference solution")
    names = {theirs: ours for file in files.values() for ours, theirs in file.names.items()}
    statuses = {_renamed(test, names): status for test, status in run.statuses.items()}
    return Calibration(
        fail_to_pass=_demanded(instance.fail_to_pass, statuses, "fail_to_pass"),
        pass_to_pass=tuple(
            test
            for test in _demanded(instance.pass_to_pass, statuses, "pass_to_pass")
            if statuses[test] is Status.PASSED
        ),
        clones=tuple(
            replace(clone, must_fail=tuple(failed), contradicts=tuple(failed.values()))
            for file in files.values()
            for name, clone in file.clones.items()
            if (failed := _failed(run, name, file.names[f"{clone.path}::{clone.test}"]))
        ),
        cpu_seconds=cpu_seconds,
    )


def undisturbed(
    clones: Sequence[Clone], instance: Instance, run: TestRun, files: dict[str, Disguise]
) -> list[Clone]:
    """Return the clones of tests that passed; the others may be disturbed by their clones."""
    names = {theirs: ours for file in files.values() for ours, theirs in file.names.items()}
    statuses = {_renamed(test, names): status for test, status in run.statuses.items()}
    disturbed = {
        test.partition("[")[0]
        for test in (*instance.fail_to_pass, *instance.pass_to_pass)
        if statuses.get(test) is not Status.PASSED
    }
    return [clone for clone in clones if f"{clone.path}::{clone.test}" not in disturbed]


def _demanded(listed: Sequence[str], statuses: dict[str, Status], column: str) -> tuple[str, ...]:
    """Find the listed tests in the run; some data sets cut long parameters off."""
    found: list[str] = []
    allowed = {Status.PASSED} if column == "fail_to_pass" else set(Status) - {Status.FAILED}
    for test in listed:
        matches = [test] if test in statuses else []
        if not matches and ("[" in test) and not test.endswith("]"):
            matches = [name for name in statuses if name.startswith(test)]
        if not matches:
            raise UnsoundError(f"{column}: {test} did not run with the reference solution")
        for name in matches:
            if statuses[name] not in allowed:
                raise UnsoundError(f"{column}: {name} {statuses[name]} with the reference solution")
        found += matches
    return tuple(dict.fromkeys(found))


def _failed(run: TestRun, clone: str, original: str) -> dict[str, str]:
    """Return the parameters with which a clone failed, and those of the test in the same rows."""
    clones, originals = (
        [test.removeprefix(name) for test in run.collected if test.partition("[")[0] == name]
        for name in (clone, original)
    )
    if len(clones) != len(originals):
        return {}
    return {
        row: same
        for row, same in zip(clones, originals, strict=True)
        if run.statuses.get(f"{clone}{row}") is Status.FAILED
    }


def _renamed(test: str, names: dict[str, str]) -> str:
    name, bracket, parameters = test.partition("[")
    return f"{names.get(name, name)}{bracket}{parameters}"


def _clone(document: dict[str, Any]) -> Clone:
    sites = tuple(Site(**site) for site in document["sites"])
    return Clone(
        path=document["path"],
        test=document["test"],
        sites=sites,
        must_fail=tuple(document["must_fail"]),
        contradicts=tuple(document["contradicts"]),
    )
