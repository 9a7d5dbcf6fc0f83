"""Instances from a local git repository, by the command a user runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cispo.config.prepare import PrepareConfig
from cispo.config.sandbox import SandboxConfig
from cispo.config.swe import SweConfig
from cispo.data.swe.instance import Instance
from cispo.data.swe.read_patch import parse_diff
from cispo.errors import ConfigError, TaskFileError
from launch.preparing import prepare_instances
from rewards.swe.build_instance import compare
from rewards.swe.grader import SweGrader
from rewards.swe.tested import TestedPatch
from rewards.swe.verdict import Status
from sandboxes.workspaces import JailWorkspaces
from tests.swe.repository import FAULTY, commit, git, make_repository

ROOT = Path(__file__).parents[2]
PASSED, FAILED, SKIPPED = Status.PASSED, Status.FAILED, Status.SKIPPED


def prepare(*overrides: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "launch.prepare", *overrides],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=120,
        check=False,
    )


async def test_a_fix_commit_becomes_an_instance_that_grades(
    jails: JailWorkspaces, settings: SweConfig, grader: SweGrader, tmp_path: Path
) -> None:
    _, fault, fix = make_repository(tmp_path / "twice")
    output = tmp_path / "instances.jsonl"
    arguments = (
        *("swe", f"repo={tmp_path}/twice", f"fix={fix}", f"output={output}"),
        *("requirements=[pytest]", f"sandbox.swe.cache={settings.cache}", "num_runs=1"),
    )
    ran = prepare(*arguments)
    assert ran.returncode == 0, ran.stderr
    assert f"twice-{fix[:8]}: 4 tests turn from failing to passing, 2 go on passing" in ran.stdout
    instance = Instance.from_json(json.loads(output.read_text()))
    assert instance.base_commit == fault
    assert instance.problem_statement == "Mend double\n\nIt is one too many."
    assert instance.fail_to_pass == (
        "tests/test_twice.py::TestTexts::test_double_of_ten",
        "tests/test_twice.py::test_double[0-0]",
        "tests/test_twice.py::test_double[1-2]",
        "tests/test_twice.py::test_double[4-8]",
    )
    assert instance.pass_to_pass == (
        "tests/test_twice.py::test_half",
        "tests/test_twice.py::test_half_of_double",
    )
    assert instance.setup.source_roots == ("src",)
    assert instance.shown_files == {"src/twice.py": FAULTY}
    assert "test" not in instance.patch
    gold = await grader.test(instance, parse_diff(instance.patch))
    empty = await grader.test(instance, (), skip_empty=False)
    assert isinstance(gold, TestedPatch)
    assert isinstance(empty, TestedPatch)
    assert (gold.parts["correct"], empty.parts["correct"]) == (1.0, 0.0)
    again = prepare(*arguments)
    assert again.returncode == 2
    assert "holds twice-" in again.stderr


def test_a_file_of_commits_becomes_instances_with_the_tests_that_it_names(tmp_path: Path) -> None:
    _, fault, fix = make_repository(tmp_path / "o__twice")
    notes = commit(tmp_path / "o__twice", "Note", {"notes.md": "x"})
    row = {
        "repo": "o/twice",
        "fix_commit": fix,
        "base_commit": fault,
        "pip_deps": ["pytest", "simplejson"],
        "test_files": ["tests/test_twice.py"],
        "FAIL_TO_PASS": ["tests.test_twice::test_double[0-0]"],
        "PASS_TO_PASS": ["tests.test_twice::test_half"],
    }
    commits = tmp_path / "commits.jsonl"
    without_tests = {**row, "fix_commit": notes, "base_commit": None}
    commits.write_text(f"{json.dumps(row)}\n{json.dumps(without_tests)}\n")
    output = tmp_path / "instances.jsonl"
    settings = SandboxConfig(swe=SweConfig(repositories=str(tmp_path)))
    prepare_instances(PrepareConfig(fixes=str(commits), output=str(output), sandbox=settings))
    [instance] = [Instance.from_json(json.loads(line)) for line in output.read_text().splitlines()]
    assert (instance.instance_id, instance.repo) == (f"o__twice-{fix[:8]}", "o/twice")
    assert instance.fail_to_pass == ("tests/test_twice.py::test_double[0-0]",)
    assert instance.pass_to_pass == ("tests/test_twice.py::test_half",)
    assert instance.setup.requirements == ("pytest", "simplejson")
    assert instance.setup.source_roots == ("src",)
    assert instance.shown_files == {"src/twice.py": FAULTY}
    commits.write_text(json.dumps({**row, "fix_commit": 5}))
    with pytest.raises(TaskFileError, match="line 1: 'fix_commit' must be text, not 5"):
        prepare_instances(PrepareConfig(fixes=str(commits), output=str(output)))
    with pytest.raises(ConfigError, match="give repo and fix, or fixes=FILE"):
        PrepareConfig(repo="x", fix="y", fixes="z")
    with pytest.raises(ConfigError, match="give repo and fix, or fixes=FILE"):
        PrepareConfig(repo="x")


def test_a_commit_that_makes_no_instance_is_refused(jails: JailWorkspaces, tmp_path: Path) -> None:
    first, _, fix = make_repository(tmp_path / "twice")
    only_notes = commit(tmp_path / "twice", "Note", {"notes.md": "x"})
    repo = f"{tmp_path}/twice"
    output = f"{tmp_path}/instances.jsonl"
    for cfg, message in (
        (PrepareConfig(repo=repo, fix=only_notes, output=output), "changes notes.md"),
        (PrepareConfig(repo=repo, fix="absent", output=output), "git rev-parse failed"),
        (PrepareConfig(repo=repo, fix=first, output=output), "git rev-parse failed"),
        (PrepareConfig(repo=f"{repo}s", fix=fix, output=output), "no clone at"),
        (PrepareConfig(repo=repo, fix=fix, output=f"{tmp_path}/no/x"), "does not exist"),
        (PrepareConfig(repo=repo, fix=fix, output=output, issue="absent"), "issue=absent"),
    ):
        with pytest.raises(ConfigError, match=message):
            prepare_instances(cfg)
    assert git(tmp_path / "twice", "status", "--porcelain") == ""
    ran = prepare("math")
    assert (ran.returncode, ran.stderr) == (2, "error: say what to prepare: swe, tasks\n")


@pytest.mark.parametrize(
    ("before", "after", "fail_to_pass", "pass_to_pass"),
    [
        ([{"a": FAILED}], [{"a": PASSED}], ("a",), ()),
        ([{}], [{"a": PASSED}], ("a",), ()),
        ([{"a": PASSED}], [{"a": PASSED}], (), ("a",)),
        ([{"a": PASSED}], [{"a": FAILED}], (), ()),
        ([{"a": SKIPPED}], [{"a": PASSED}], (), ()),
        ([{"a": FAILED}, {"a": PASSED}], [{"a": PASSED}, {"a": PASSED}], (), ()),
        ([{"a": FAILED}], [{"a": PASSED}, {"a": FAILED}], (), ()),
    ],
)
def test_only_what_is_the_same_in_all_runs_counts(
    before: list[dict[str, Status]],
    after: list[dict[str, Status]],
    fail_to_pass: tuple[str, ...],
    pass_to_pass: tuple[str, ...],
) -> None:
    assert compare(before, after) == (fail_to_pass, pass_to_pass)
