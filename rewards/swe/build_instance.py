"""Makes an instance from a commit that mends something and comes with tests."""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cispo.config.swe import SweConfig
from cispo.data.swe.instance import Instance, Setup
from cispo.data.swe.read_patch import parse_diff
from cispo.errors import ConfigError
from rewards.swe.jail_run import Order, run_in_jail, run_limits
from rewards.swe.tested import failure_of
from rewards.swe.verdict import Status, read_run
from sandboxes.swe.environment import Environments
from sandboxes.swe.paths import is_test_file
from sandboxes.swe.repository import changed_paths, diff, git, resolve_commit
from sandboxes.workspaces import Workspaces


class NoInstanceError(ConfigError):
    """A commit makes no instance; the message says what it lacks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fix:
    """A commit that mends something.

    Attributes:
        repository: Folder of the git repository.
        name: The repository's name in the instance.
        base: Commit before.
        commit: The commit.
        issue: What is wrong, in words; None takes the message of the commit.
        setup: What the tests need.
        instance_id: Name of the instance; empty makes one of repository and commit.
        fail_to_pass: Tests that turn to pass, where that is known.
        pass_to_pass: Tests that go on passing, where that is known.
    """

    repository: Path
    name: str
    base: str
    commit: str
    issue: str | None
    setup: Setup
    instance_id: str = ""
    fail_to_pass: tuple[str, ...] = ()
    pass_to_pass: tuple[str, ...] = ()


def draft_instance(fix: Fix) -> Instance:
    """Return the instance; where its tests are not known, the files that have tests name them.

    Raises:
        NoInstanceError: The commit changes no test or nothing but tests.
        RepositoryError: A commit is not there, or git fails.
    """
    base, commit = (resolve_commit(fix.repository, name) for name in (fix.base, fix.commit))
    paths = changed_paths(fix.repository, base, commit)
    tests = [path for path in paths if is_test_file(path)]
    sources = [path for path in paths if not is_test_file(path)]
    modules = [path for path in tests if path.endswith(".py") and "conftest" not in path]
    if not modules or not any(path.endswith(".py") for path in sources):
        raise NoInstanceError(
            f"fix={fix.commit}: an instance needs changes of tests and of other Python files; it "
            f"changes {', '.join(paths) or 'nothing'}"
        )
    return Instance(
        instance_id=fix.instance_id or f"{_label(fix.name)}-{commit[:8]}",
        repo=fix.name,
        base_commit=base,
        problem_statement=fix.issue
        or git(fix.repository, "log", "-1", "--format=%B", commit).strip(),
        patch=(patch := diff(fix.repository, base, commit, sources)),
        test_patch=diff(fix.repository, base, commit, tests),
        fail_to_pass=fix.fail_to_pass or tuple(modules),
        pass_to_pass=fix.pass_to_pass,
        setup=fix.setup,
        shown_files=_shown(fix.repository, base, patch),
    )


async def build_instance(
    fix: Fix,
    workspaces: Workspaces,
    environments: Environments,
    settings: SweConfig,
    *,
    num_runs: int,
) -> Instance:
    """Find out which tests a commit turns from failing to passing, and which go on passing.

    Args:
        fix: The commit.
        workspaces: Where tests run.
        environments: Builds the repository's environment; must find it by `fix.name`.
        settings: Limits.
        num_runs: Runs before and after the commit; only what is the same in all counts.

    Raises:
        NoInstanceError: No test turns from failing to passing.
        UnbuildableError: The environment cannot be made.
    """
    draft = draft_instance(fix)
    environment = await environments.get(draft)
    patches = {False: (), True: parse_diff(draft.patch)}
    outcomes: dict[bool, list[Mapping[str, Status]]] = {False: [], True: []}
    for is_fixed in (False, True):
        for _ in range(num_runs):
            order = Order(
                patches=patches[is_fixed],
                sources=environment.tests,
                files=[path for path in draft.fail_to_pass if path in environment.tests],
                selected=None,
                nonce=secrets.token_hex(16),
            )
            run = await run_in_jail(
                workspaces,
                environment,
                draft,
                order,
                run_limits(settings),
                scratch=environments.cache / "gradings",
                write_bytes=settings.write_bytes,
            )
            if run.report is None or (failure := failure_of(run)) is not None:
                raise NoInstanceError(f"{draft.instance_id}: {failure_of(run) or failure}")
            outcomes[is_fixed].append(read_run(run.report, order.nonce).statuses)
    fail_to_pass, pass_to_pass = compare(outcomes[False], outcomes[True])
    if not fail_to_pass:
        raise NoInstanceError(f"{draft.instance_id}: no test fails before and passes after it")
    return replace(
        draft,
        fail_to_pass=fail_to_pass,
        pass_to_pass=pass_to_pass,
    )


def compare(
    before: Sequence[Mapping[str, Status]], after: Sequence[Mapping[str, Status]]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the tests that fail in all runs before and pass in all after, and that always pass.

    A test that is not there before, because its file cannot be imported, fails.
    """
    passing = [test for test in after[0] if all(run.get(test) is Status.PASSED for run in after)]
    fail_to_pass = [
        test
        for test in passing
        if all(run.get(test, Status.FAILED) is Status.FAILED for run in before)
    ]
    pass_to_pass = [
        test for test in passing if all(run.get(test) is Status.PASSED for run in before)
    ]
    return tuple(sorted(fail_to_pass)), tuple(sorted(pass_to_pass))


def _label(name: str) -> str:
    """Return a name without slashes: that of the folder where the repository has no other."""
    path = Path(name)
    return path.stem if path.is_absolute() else name.replace("/", "__")


def _shown(repository: Path, base: str, patch: str) -> dict[str, str]:
    """Return the files that the solution changes, as they are before it."""
    paths = [change.old_path for change in parse_diff(patch)]
    return {path: git(repository, "show", f"{base}:{path}") for path in paths if path is not None}
