"""Rows that name fix commits, `base_commit` and `fix_commit`, without the patches between them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cispo.data.swe.instance import Setup, setup_from
from cispo.data.swe.rows import names_of_tests, text_of
from cispo.errors import TaskFileError


@dataclass(frozen=True, slots=True, kw_only=True)
class FixRow:
    """What a row says of a commit that mends something.

    Attributes:
        instance_id: Unique name; empty takes one of repository and commit.
        repo: `owner/name`, or the folder of a git repository.
        base_commit: Commit before; empty is the parent of `fix_commit`.
        fix_commit: The commit.
        issue: What is wrong, in words; None takes the message of the commit.
        setup: What the tests need, as far as the row says; None where it does not.
        requirements: Packages that the tests need, where the row has no `setup`.
        fail_to_pass: Tests that turn to pass; empty where the row names none.
        pass_to_pass: Tests that go on passing.
    """

    instance_id: str
    repo: str
    base_commit: str
    fix_commit: str
    issue: str | None
    setup: Setup | None
    requirements: tuple[str, ...]
    fail_to_pass: tuple[str, ...]
    pass_to_pass: tuple[str, ...]


def fix_from_row(row: Mapping[str, Any], place: str) -> FixRow:
    """Read one row.

    Args:
        row: `repo` and `fix_commit`, and optionally `instance_id`, `base_commit`,
            `problem_statement`, `setup` or `pip_deps`, `FAIL_TO_PASS`, `PASS_TO_PASS` and
            `test_files`, which says in which files JUnit's names of tests lie.
        place: File and line, for messages.

    Raises:
        TaskFileError: A column is missing or holds what cannot be; the message names it.
    """
    try:
        return FixRow(
            instance_id=_optional(row, "instance_id"),
            repo=text_of(row, "repo"),
            base_commit=_optional(row, "base_commit"),
            fix_commit=text_of(row, "fix_commit"),
            issue=_optional(row, "problem_statement") or None,
            setup=setup_from(row["setup"]) if row.get("setup") else None,
            requirements=_requirements(row),
            fail_to_pass=names_of_tests(row, "FAIL_TO_PASS") if "FAIL_TO_PASS" in row else (),
            pass_to_pass=names_of_tests(row, "PASS_TO_PASS") if "PASS_TO_PASS" in row else (),
        )
    except ValueError as error:
        raise TaskFileError(f"{place}: {error}") from error


def _optional(row: Mapping[str, Any], column: str) -> str:
    return text_of(row, column) if row.get(column) is not None else ""


def _requirements(row: Mapping[str, Any]) -> tuple[str, ...]:
    value = row.get("pip_deps") or []
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise ValueError(f"'pip_deps' must be a list of packages, not {value!r}")
    return tuple(value)
