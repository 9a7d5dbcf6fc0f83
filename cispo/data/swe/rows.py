"""Rows of the public SWE data sets, each in its own dialect, as instances.

Known are SWE-bench and SWE-Gym (the same columns), SWE-smith, whose `patch` makes the fault and
whose tests are part of the repository, NeMo Gym's `anyswe`, which wraps a SWE-bench row, and what
`python -m launch.prepare swe` writes.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cispo.data.swe.instance import Instance, setup_from
from cispo.data.swe.patch import format_diff, reverse
from cispo.data.swe.read_patch import parse_diff
from cispo.errors import TaskFileError

_SMITH_REPO = re.compile(r"swesmith/(?P<owner>.+?)__(?P<name>.+)\.(?P<commit>[0-9a-f]{7,40})")


def instance_from_row(row: Mapping[str, Any], place: str) -> Instance:
    """Read one row.

    Args:
        row: A row of one of the known data sets.
        place: File and line, for messages.

    Raises:
        TaskFileError: A column is missing or holds what cannot be; the message names it.
    """
    try:
        if "fail_to_pass" in row:
            return Instance.from_json({k: v for k, v in row.items() if v is not None})
        if "responses_create_params" in row:
            row = _unwrapped(row)
        smith = _SMITH_REPO.fullmatch(str(row.get("repo", "")))
        return _smith(row, smith) if smith else _bench(row)
    except ValueError as error:
        raise TaskFileError(f"{place}: {error}") from error


def _bench(row: Mapping[str, Any]) -> Instance:
    test_patch = text_of(row, "test_patch")
    return Instance(
        instance_id=text_of(row, "instance_id"),
        repo=text_of(row, "repo"),
        base_commit=text_of(row, "base_commit"),
        problem_statement=text_of(row, "problem_statement"),
        patch=text_of(row, "patch"),
        test_patch=test_patch,
        fail_to_pass=names_of_tests(row, "FAIL_TO_PASS"),
        pass_to_pass=names_of_tests(row, "PASS_TO_PASS"),
        setup=setup_from(row.get("setup") or {}),
        shown_files=row.get("shown_files") or {},
    )


def _smith(row: Mapping[str, Any], match: re.Match[str]) -> Instance:
    fault = text_of(row, "patch")
    return Instance(
        instance_id=text_of(row, "instance_id"),
        repo=f"{match['owner']}/{match['name']}",
        base_commit=row.get("base_commit") or match["commit"],
        problem_statement=text_of(row, "problem_statement"),
        patch=format_diff(reverse(parse_diff(fault))),
        test_patch="",
        base_patch=fault,
        fail_to_pass=names_of_tests(row, "FAIL_TO_PASS"),
        pass_to_pass=names_of_tests(row, "PASS_TO_PASS"),
        setup=setup_from(row.get("setup") or {}),
        shown_files=row.get("shown_files") or {},
    )


def _unwrapped(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the SWE-bench row inside an `anyswe` row, with what stands beside it."""
    metadata = row["responses_create_params"].get("metadata")
    if not isinstance(metadata, Mapping):
        raise ValueError("'responses_create_params.metadata' is missing")
    inner = metadata.get("instance_dict", "{}")
    if isinstance(inner, str):
        try:
            inner = json.loads(inner)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"'responses_create_params.metadata.instance_dict' is not JSON ({error})"
            ) from error
    return {**row, **metadata, **inner}


def names_of_tests(row: Mapping[str, Any], column: str) -> tuple[str, ...]:
    """Read test names, which some data sets keep as a list and others as JSON text.

    Raises:
        ValueError: The column holds something else.
    """
    value = row.get(column)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(f"{column!r} is no JSON list: {value[:80]!r}") from error
    if not isinstance(value, Sequence) or not all(isinstance(test, str) for test in value):
        raise ValueError(f"{column!r} must be a list of test names, not {value!r}")
    files = row.get("test_files") or ()
    return tuple(dict.fromkeys(_node_id(test, files) for test in value))


def _node_id(test: str, files: Sequence[str]) -> str:
    """Return `file::class::function` for a name that JUnit reports wrote `package.Class::name`."""
    scope, separator, rest = test.partition("::")
    if not separator or scope.endswith(".py"):
        return test
    for file in files:
        module = str(Path(file).with_suffix("")).replace("/", ".")
        if scope == module or scope.startswith(f"{module}."):
            classes = scope[len(module) :].strip(".").replace(".", "::")
            return "::".join(filter(None, (file, classes, rest)))
    return test


def text_of(row: Mapping[str, Any], column: str) -> str:
    """Return a column that must hold text.

    Raises:
        ValueError: It is not there or holds something else.
    """
    if column not in row:
        raise ValueError(f"no {column!r}; it has {', '.join(sorted(row)) or 'nothing'}")
    value = row[column]
    if not isinstance(value, str):
        raise ValueError(f"{column!r} must be text, not {value!r}")
    return value
