"""From one run of hidden tests to the parts of a grading."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rewards.swe.calibrate import Calibration
from rewards.swe.disguise import Disguise
from rewards.swe.jail_run import JailRun
from rewards.swe.verdict import Status, TestRun, passed_clones
from sandboxes.base import Outcome

NOTHING: Mapping[str, float] = {
    "correct": 0.0,
    "applied": 0.0,
    "fail_to_pass": 0.0,
    "pass_to_pass": 0.0,
    "tamper": 0.0,
    "timed_out": 0.0,
}
"""Parts of a grading before anything is known in its favour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TestedPatch:
    """What the hidden tests say of a patch.

    Attributes:
        parts: Named parts of the grading, each in 0..1.
        findings: Why it is not right, for people.
        bits: Results that were forged by chance would have been seen but for 2 ** -bits.
        num_runs: How often its tests ran, each time in another disguise.
        cpu_seconds: CPU time of all runs.
    """

    __test__ = False  # it is no test of pytest's

    parts: Mapping[str, float]
    findings: tuple[str, ...] = ()
    bits: int = 0
    num_runs: int = 0
    cpu_seconds: float = 0.0


def judge_run(
    run: JailRun,
    tests: TestRun,
    calibration: Calibration,
    files: Mapping[str, Disguise],
    *,
    bits: int,
) -> TestedPatch:
    """Judge a run: whoever forged a result gets nothing, else every test must have passed.

    Args:
        run: How the jail ended.
        tests: What its tests told.
        calibration: What is demanded.
        files: The test files as the jail had them.
        bits: What the clones among them are worth.
    """
    failure = failure_of(run)
    forged = _signs_of_forgery(run, tests, files)
    findings = [*forged, *([failure] if failure is not None else [])]
    shares: dict[str, float] = {}
    for column in ("fail_to_pass", "pass_to_pass"):
        listed = getattr(calibration, column)
        missing = [
            ours
            for ours, theirs in zip(listed, in_disguise(listed, files), strict=True)
            if tests.statuses.get(theirs) is not Status.PASSED
        ]
        shares[column] = 1.0 - len(missing) / len(listed) if listed else 1.0
        findings += [f"{column}: {test} did not pass" for test in missing]
    is_right = tests.has_finished and failure is None and set(shares.values()) == {1.0}
    parts = {
        **NOTHING,
        "applied": float(run.report is None or "failure" not in run.report),
        "timed_out": float(run.result.outcome is Outcome.TIMED_OUT),
        "tamper": float(bool(forged)),
    }
    if not forged:
        parts |= {"correct": float(is_right), **shares}
    return TestedPatch(
        parts=parts,
        findings=tuple(findings),
        bits=bits,
        num_runs=1,
        cpu_seconds=run.result.cpu_seconds,
    )


def _signs_of_forgery(run: JailRun, tests: TestRun, files: Mapping[str, Disguise]) -> list[str]:
    signs = list(tests.contradictions)
    if run.report is None and run.result.outcome is Outcome.EXITED:
        signs.append("the driver was killed")
    for file in files.values():
        originals = {
            name: file.names[f"{clone.path}::{clone.test}"] for name, clone in file.clones.items()
        }
        signs += [
            f"a clone of {file.clones[name.partition('[')[0]].test} passed"
            for name in passed_clones(tests, file.clones, originals)
        ]
    return signs


def failure_of(run: JailRun) -> str | None:
    """Say why tests did not run to their end, as far as the jail knows."""
    if run.result.outcome is not Outcome.EXITED:
        return f"the run was stopped: {run.result.outcome}"
    if run.report is None:
        return "the driver left no report"
    if "failure" in run.report:
        return f"the patch does not apply: {run.report['failure']}"
    return None


def in_disguise(tests: Iterable[str], files: Mapping[str, Disguise]) -> list[str]:
    """Return ids as the jail knows them."""
    renamed = []
    for test in tests:
        name, bracket, parameters = test.partition("[")
        path = name.partition("::")[0]
        renamed.append(f"{files[path].names.get(name, name)}{bracket}{parameters}")
    return renamed
