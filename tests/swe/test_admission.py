"""The admission gate: which tasks it lets pass, which it names, and that training asks for it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cispo.config import EvaluationConfig, SandboxConfig, SourceConfig, TasksConfig
from cispo.config.admit import AdmitConfig
from cispo.config.swe import SweConfig
from cispo.data.code_family import CodeFamily
from cispo.data.swe.instance import Instance
from cispo.data.swe.patch import format_diff, reverse
from cispo.data.swe.read_patch import parse_diff
from cispo.data.swe.tasks import instance_task
from cispo.data.swe.toy import SweToyFamily
from cispo.errors import ConfigError
from cispo.types import Task
from launch.admitting import refused_tasks, run_admission, summary
from rewards.admission import Admission, Admissions, Examiner, admission_key, examine_all
from rewards.code import CodeGrader
from rewards.swe.grader import LostError, SweGrader
from sandboxes.base import ExecResult, Limits, Outcome, Program
from sandboxes.bubblewrap import BubblewrapSandbox
from sandboxes.workspaces import JailWorkspaces

LIMITS = Limits(
    cpu_seconds=5.0,
    wall_seconds=60.0,
    memory_bytes=256 * 2**20,
    max_processes=16,
    output_bytes=65536,
)


class Broken:
    """A sandbox that is always lost."""

    async def run(self, program: Program, limits: Limits) -> ExecResult:
        return ExecResult(
            outcome=Outcome.LOST,
            exit_code=None,
            stdout=b"",
            stderr=b"no power",
            cpu_seconds=0.0,
            wall_seconds=0.0,
        )


class Moody:
    """A sandbox in which programs that print are right every other time."""

    def __init__(self, outputs: list[str]) -> None:
        self._outputs = outputs
        self._num_runs = 0

    async def run(self, program: Program, limits: Limits) -> ExecResult:
        self._num_runs += b"print" in program.stdin
        is_right = b"print" in program.stdin and self._num_runs % 2 == 0
        frames = [
            f"{index} 0 {len(output)}\n{output}" for index, output in enumerate(self._outputs)
        ]
        return ExecResult(
            outcome=Outcome.EXITED,
            exit_code=0,
            stdout="".join(frames).encode() if is_right else b"",
            stderr=b"",
            cpu_seconds=0.0,
            wall_seconds=0.0,
        )


def swe_task(instance: Instance) -> Task:
    return instance_task(instance, "single_shot", source="toy")


@pytest.fixture
def examiner(
    jails: JailWorkspaces, grader: SweGrader, tmp_path: Path, settings: SweConfig
) -> Examiner:
    code = CodeGrader(BubblewrapSandbox(), LIMITS, max_concurrent=1)
    return Examiner(code, grader, Admissions(tmp_path), num_runs=2, min_canary_bits=4)


async def test_sound_tasks_are_admitted(examiner: Examiner, toy: Instance) -> None:
    for task in (swe_task(toy), CodeFamily(1, 0)[0]):
        assert await examiner.examine(task) == Admission(is_admitted=True, num_runs=2)


async def test_unsound_tasks_are_refused_with_the_reason(examiner: Examiner, toy: Instance) -> None:
    wrong = toy.patch.replace("+    return ", "+    return 1000+")
    mended = {**toy.tree, "sums.py": toy.tree["sums.py"].replace(_wrong(toy), _right(toy))}
    undo = format_diff(reverse(parse_diff(toy.patch)))
    names = [test.rpartition("::")[2] for test in toy.fail_to_pass]
    known = replace(toy, test_patch=f"{toy.test_patch}+KNOWN = [{', '.join(names)}]\n")
    for instance, reason in (
        (replace(toy, patch=wrong), "unsound: fail_to_pass: tests/test_sums.py::"),
        (replace(toy, patch="nothing"), "unsound: no diff in it"),
        (replace(toy, patch=undo), "unsound: with the reference solution, the patch does not"),
        (replace(toy, tree=mended, patch=_comment(mended)), "unsound: an answer that does nothing"),
        (replace(toy, pass_to_pass=("tests/absent.py::test_a",)), "unbuildable: "),
        (replace(toy, tree={"a.py": ""}), "unbuildable: "),
        (known, "unsound: its tests allow 0 bits"),
    ):
        admission = await examiner.examine(swe_task(instance))
        assert not admission.is_admitted
        assert admission.reason.startswith(reason), admission.reason


async def test_a_solution_that_is_right_every_other_time_makes_a_task_flaky(
    tmp_path: Path,
) -> None:
    task = CodeFamily(1, 0)[0]
    moody = Moody([test["stdout"] for test in task.truth["tests"]])  # type: ignore[attr-defined]
    code = CodeGrader(moody, LIMITS, max_concurrent=1)  # type: ignore[arg-type]
    examiner = Examiner(code, None, Admissions(tmp_path), num_runs=4, min_canary_bits=4)
    assert await examiner.examine(task) == Admission(
        is_admitted=False,
        reason="flaky: its own solution is right 2 of 4 times: its output differs",
        num_runs=4,
    )


async def test_a_patch_whose_tests_pass_in_the_reference_run_alone_is_refused(
    grader: SweGrader, toy: Instance, tmp_path: Path
) -> None:
    # The reference run has four clones of each test, a grading at most three.
    crowd = toy.test_patch.replace(
        "+    assert mix(", "+    assert len(globals()) > 40\n+    assert mix(", 1
    ).replace(",26 @@", ",27 @@")
    examiner = Examiner(None, grader, Admissions(tmp_path), num_runs=2, min_canary_bits=0)
    admission = await examiner.examine(swe_task(replace(toy, test_patch=crowd)))
    assert not admission.is_admitted
    assert admission.reason.startswith("unsound: ")


async def test_programs_need_a_solution_that_is_right(examiner: Examiner) -> None:
    good = CodeFamily(1, 0)[0]
    for task, reason in (
        (replace(good, solution=None), "unsound: the task has no solution to try"),
        (replace(good, solution="```python\nprint(0)\n```"), "unsound: its own solution is wrong"),
        (
            replace(good, truth={"tests": [{"stdin": "", "stdout": ""}]}),
            "unsound: an answer that does nothing is right",
        ),
    ):
        assert (await examiner.examine(task)).reason.startswith(reason)


async def test_a_verdict_is_kept_by_content_and_tried_again_where_asked(
    examiner: Examiner, tmp_path: Path
) -> None:
    task = CodeFamily(1, 0)[0]
    admissions = Admissions(tmp_path)
    assert admissions.find(task) is None
    await examiner.examine(task)
    renamed = replace(task, task_id="other", source="elsewhere")
    assert admissions.find(renamed) == Admission(is_admitted=True, num_runs=2)
    assert admission_key(replace(task, truth={})) != admission_key(task)
    admissions.keep(task, Admission(is_admitted=False, reason="flaky: x", num_runs=2))
    assert (await examiner.examine(task)).reason == "flaky: x"
    assert (await examiner.examine(task, anew=True)).is_admitted
    admissions.keep(task, Admission(is_admitted=False, reason="flaky: x", num_runs=1))
    assert (await examiner.examine(task)).is_admitted


async def test_a_machine_that_fails_gives_no_verdict(tmp_path: Path) -> None:
    admissions = Admissions(tmp_path)
    code = CodeGrader(Broken(), LIMITS, max_concurrent=1)  # type: ignore[arg-type]
    examiner = Examiner(code, None, admissions, num_runs=1, min_canary_bits=4)
    task = CodeFamily(1, 0)[0]
    verdicts = await examine_all(
        examiner, [task], max_concurrent=1, anew=False, advance=lambda: None
    )
    assert isinstance(verdicts[task.task_id], LostError)
    assert admissions.find(task) is None
    assert "lost      write_program/0: " in "\n".join(summary(verdicts))


def write_instances(path: Path, *instances: Instance) -> TasksConfig:
    path.write_text("".join(json.dumps(instance.to_json()) + "\n" for instance in instances))
    return TasksConfig(path=str(path), verifier="swe")


def test_training_refuses_what_was_not_admitted_and_leaves_out_what_was_refused(
    jails: JailWorkspaces,
    toy: Instance,
    tmp_path: Path,
    settings: SweConfig,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bad = replace(toy, instance_id="bad", patch=toy.patch.replace("+    return ", "+    return 9+"))
    tasks = write_instances(tmp_path / "rows.jsonl", replace(toy, instance_id="good"), bad)
    sandbox = SandboxConfig(swe=settings)
    evaluation = EvaluationConfig()
    with pytest.raises(ConfigError, match=r"2 of 2 tasks .* were not admitted, good for one; run"):
        refused_tasks(tasks, evaluation, sandbox)
    report = tmp_path / "report.jsonl"
    run_admission(AdmitConfig(tasks=tasks, sandbox=sandbox, num_runs=1, report=str(report)))
    said = capsys.readouterr().out
    assert "refused   bad: unsound: fail_to_pass" in said
    assert "2 tasks: 1 admitted, 1 unsound" in said
    lines = [json.loads(line) for line in report.read_text().splitlines()]
    assert [line["is_admitted"] for line in lines] == [True, False]
    assert refused_tasks(tasks, evaluation, sandbox) == {"bad"}
    only_bad = write_instances(tmp_path / "bad.jsonl", bad)
    with pytest.raises(ConfigError, match="no task is admitted"):
        run_admission(AdmitConfig(tasks=only_bad, sandbox=sandbox, num_runs=1))


def test_generated_families_are_examined_when_a_run_starts(
    jails: JailWorkspaces, settings: SweConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox = SandboxConfig(swe=settings)
    sources = [
        SourceConfig(kind="swe_toy", name="repair_function", size=2),
        SourceConfig(kind="code_family", name="write_program", size=2),
        SourceConfig(kind="reasoning_gym", name="gcd", size=2),
    ]
    evaluation = EvaluationConfig()
    assert refused_tasks(TasksConfig(sources=sources), evaluation, sandbox) == frozenset()
    admissions = Admissions(Path(settings.cache or ""))
    assert admissions.find(SweToyFamily(2, 0)[1]) is not None
    broken = SweToyFamily.__getitem__
    monkeypatch.setattr(
        SweToyFamily,
        "__getitem__",
        lambda self, row: _with_wrong_patch(broken(self, row)),
    )
    with pytest.raises(ConfigError, match=r"repair_function\]: .* is not admitted: unsound"):
        refused_tasks(TasksConfig(sources=sources[:1]), evaluation, sandbox)


def _wrong(toy: Instance) -> str:
    return next(line[1:] for line in toy.patch.splitlines() if line.startswith("-    "))


def _right(toy: Instance) -> str:
    return next(line[1:] for line in toy.patch.splitlines() if line.startswith("+    "))


def _comment(tree: dict[str, str]) -> str:
    head = tree["sums.py"].split("\n")[0]
    return f"--- a/sums.py\n+++ b/sums.py\n@@ -1 +1,2 @@\n+# right\n {head}\n"


def _with_wrong_patch(task: Task) -> Task:
    document = dict(task.truth["instance"])  # type: ignore[call-overload]
    document["patch"] = document["patch"].replace("+    return ", "+    return 77+")
    return replace(task, truth={"instance": document})
