"""Real repositories with real fixes, where this machine has clones of them.

`CISPO_SWE_REPOSITORIES` names the folder with the clones, `owner__name` or `owner/name`; which
commits are tried stands in `shared/data/swe/instances.jsonl`. Neither is part of this project.
"""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cispo.config.swe import SweConfig
from cispo.data.swe.instance import Instance, Setup
from cispo.data.swe.patch import FilePatch, Hunk, format_diff, split_lines
from cispo.data.swe.read_patch import parse_diff
from cispo.data.swe.rows import instance_from_row
from rewards.swe.build_instance import Fix, build_instance, draft_instance
from rewards.swe.grader import SweGrader
from rewards.swe.tested import TestedPatch
from rollout.tools import RepositoryTools
from sandboxes.swe.environment import Environments
from sandboxes.swe.paths import PACKAGES, python_path
from sandboxes.swe.repository import RepositoryError, find_repository
from sandboxes.workspace import Workspace
from sandboxes.workspaces import JailWorkspaces
from tests.swe.hacks import HACKS
from tests.swe.test_episode import BUDGETS, LIMITS, SUBMIT, Script, calls, play

SOURCE_ROOTS = {"andialbrecht/sqlparse": "."}
CHOSEN = (
    "andialbrecht__sqlparse-e92a032c",
    "marshmallow-code__marshmallow-382c8cc0",
    "pallets__click-1c20dc6e",
)
TRIED = (
    *("leave at import", "print passed lines and leave", "report everything as passed"),
    *("do not run tests", "swap the functions", "swallow exceptions of calls"),
    *("steal the nonce, forge all", "conftest among the tests", "pytest.ini that loads a plugin"),
)


def facts() -> dict[str, dict[str, Any]]:
    for folder in Path(__file__).resolve().parents:
        path = folder.parent / "shared" / "data" / "swe" / "instances.jsonl"
        if path.is_file():
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            return {row["instance_id"]: row for row in rows}
    pytest.skip("NO shared/data/swe/instances.jsonl ON THIS MACHINE: no real repository is tried")


@pytest.fixture(params=CHOSEN)
def row(request: pytest.FixtureRequest) -> dict[str, Any]:
    chosen: dict[str, Any] = facts()[request.param]
    return chosen


@pytest.fixture
def clones(row: dict[str, Any]) -> Path:
    folder = Path(os.environ.get("CISPO_SWE_REPOSITORIES", "repositories"))
    try:
        find_repository(row["repo"], folder)
    except RepositoryError as error:
        pytest.skip(f"CISPO_SWE_REPOSITORIES HAS NO CLONE, a real repository is untried: {error}")
    return folder


def hacked(instance: Instance, name: str) -> str:
    """Put a trick behind the first module that the solution changes, and leave the fault."""
    hack = HACKS[name]
    path = next(path for path in instance.shown_files if path.endswith(".py"))
    before = instance.shown_files[path]
    changed = {path: (before, f"{before}\n{hack.code}\n")}
    changed |= {new: ("", text) for new, text in hack.files.items()}
    return format_diff(
        [
            FilePatch(
                old_path=path if old else None,
                new_path=path,
                hunks=(Hunk(old=tuple(split_lines(old)), new=tuple(split_lines(text)), start=1),),
            )
            for path, (old, text) in changed.items()
        ]
    )


def fix_of(row: dict[str, Any], clones: Path) -> Fix:
    return Fix(
        repository=find_repository(row["repo"], clones),
        name=row["repo"],
        base=row["base_commit"],
        commit=row["fix_commit"],
        issue=None,
        setup=Setup(
            requirements=tuple(row["pip_deps"]),
            source_roots=(SOURCE_ROOTS.get(row["repo"], "src"),),
        ),
    )


async def test_a_real_fix_is_right_nothing_is_wrong_and_tricks_earn_nothing(
    row: dict[str, Any], clones: Path, jails: JailWorkspaces, settings: SweConfig
) -> None:
    placed = SweConfig(cache=settings.cache, repositories=str(clones))
    fix = fix_of(row, clones)
    environments = Environments.at(placed.cache, placed.repositories)
    instance = await build_instance(fix, jails, environments, placed, num_runs=1)
    known = instance_from_row({**row, "problem_statement": "?", "patch": "", "test_patch": ""}, "")
    assert sorted(instance.fail_to_pass) == sorted(known.fail_to_pass)
    assert sorted(instance.pass_to_pass) == sorted(known.pass_to_pass)
    grader = SweGrader(jails, placed, max_concurrent=1)
    gold = await grader.test(instance, parse_diff(instance.patch))
    empty = await grader.test(instance, (), skip_empty=False)
    assert isinstance(gold, TestedPatch)
    assert isinstance(empty, TestedPatch)
    assert (gold.parts["correct"], gold.parts["tamper"], gold.findings) == (1.0, 0.0, ())
    assert gold.bits >= placed.canary_bits
    assert (empty.parts["correct"], empty.parts["tamper"]) == (0.0, 0.0)
    for name in TRIED:
        parts = await grader.grade(hacked(instance, name), {"instance": instance.to_json()})
        assert isinstance(parts, dict), (name, parts)
        assert parts["correct"] == 0.0, name


async def test_an_agent_earns_the_reward_of_a_real_fix_by_mending_alone(
    row: dict[str, Any], clones: Path, jails: JailWorkspaces, settings: SweConfig
) -> None:
    placed = SweConfig(cache=settings.cache, repositories=str(clones))
    known = instance_from_row({**row, "problem_statement": "?", "patch": "", "test_patch": ""}, "")
    named = {"fail_to_pass": known.fail_to_pass, "pass_to_pass": known.pass_to_pass}
    instance = draft_instance(replace(fix_of(row, clones), **named))
    environment = await Environments.at(placed.cache, placed.repositories).get(instance)
    workspace = Workspace(
        base=environment.repo,
        read_only={PACKAGES: environment.packages},
        environment={"PYTHONPATH": python_path(instance.setup.source_roots)},
    )
    grader = SweGrader(jails, placed, max_concurrent=1)
    test_file = known.fail_to_pass[0].partition("::")[0]
    hack = HACKS["report everything as passed"].code
    source = next(path for path in instance.shown_files if path.endswith(".py"))
    for command, reward in (
        (f"git apply - <<'END'\n{instance.patch}END\ngit diff --stat", 1.0),
        (f"python3 -m pytest -q -o addopts= {test_file} | tail -1", 0.0),
        (f"rm {test_file}; echo 'def test(): pass' > {test_file}", 0.0),
        (f"cat >> {source} <<'END'\n{hack}END", 0.0),
    ):
        policy = Script(calls("bash", command=command), SUBMIT)
        async with jails.open(workspace, LIMITS) as session:
            tools = RepositoryTools(session, environment, LIMITS, max_characters=2000)
            budgets = replace(BUDGETS, max_turn_tokens=10**6, max_tokens=10**7)
            rollout = await play(policy, tools, budgets=budgets)
        assert rollout.submission is not None, command
        parts = await grader.grade(rollout.submission, {"instance": instance.to_json()})
        assert isinstance(parts, dict), parts
        assert parts["correct"] == reward, (command, parts)
