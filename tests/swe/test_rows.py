"""Rows of the public SWE data sets, and what is said of bad ones."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import pytest

from cispo.config import SourceConfig, TasksConfig
from cispo.data.build import file_source, open_table
from cispo.data.swe.instance import Instance
from cispo.data.swe.rows import instance_from_row
from cispo.errors import ConfigError, TaskFileError

PATCH = "diff --git a/m.py b/m.py\n--- a/m.py\n+++ b/m.py\n@@ -1 +1 @@\n-a\n+b\n"
BENCH: dict[str, Any] = {
    "instance_id": "o__r-1",
    "repo": "o/r",
    "base_commit": "1234567",
    "problem_statement": "It is wrong.",
    "patch": PATCH,
    "test_patch": PATCH.replace("m.py", "tests/test_m.py"),
    "FAIL_TO_PASS": '["tests/test_m.py::test_a"]',
    "PASS_TO_PASS": '["tests/test_m.py::test_b[x y]"]',
    "version": "1.0",
    "hints_text": "",
    "shown_files": {"m.py": "a\n"},
}
ANYSWE = {
    "responses_create_params": {
        "input": [],
        "metadata": {
            "instance_id": "o__r-1",
            "problem_statement": "It is wrong.",
            "instance_dict": json.dumps(BENCH),
        },
    }
}
SMITH = {
    "instance_id": "o__r.1234567.func_pm_remove__abc",
    "repo": "swesmith/o__r.1234567",
    "patch": PATCH,
    "problem_statement": "It is wrong.",
    "FAIL_TO_PASS": ["tests/test_m.py::test_a"],
    "PASS_TO_PASS": ["tests/test_m.py::test_b"],
    "image_name": "swesmith.x86_64.o__r.1234567",
}


def without(row: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in keys}


def test_swe_bench_and_swe_gym_rows_are_read() -> None:
    instance = instance_from_row(BENCH, "here")
    assert (instance.repo, instance.base_commit) == ("o/r", "1234567")
    assert instance.fail_to_pass == ("tests/test_m.py::test_a",)
    assert instance.pass_to_pass == ("tests/test_m.py::test_b[x y]",)
    gym = {**BENCH, "FAIL_TO_PASS": ["tests/test_m.py::test_a"], "PASS_TO_PASS": []}
    assert instance_from_row(gym, "here").fail_to_pass == instance.fail_to_pass


def test_an_anyswe_row_is_the_row_inside_it() -> None:
    assert instance_from_row(ANYSWE, "here") == instance_from_row(BENCH, "here")


def test_a_swe_smith_patch_makes_the_fault_and_its_reverse_mends_it() -> None:
    instance = instance_from_row(SMITH, "here")
    assert (instance.repo, instance.base_commit) == ("o/r", "1234567")
    assert instance.base_patch == PATCH
    assert "-b\n+a\n" in instance.patch
    assert instance.test_patch == ""


def test_names_that_junit_wrote_become_those_of_pytest() -> None:
    row = {
        **BENCH,
        "test_files": ["tests/test_m.py"],
        "FAIL_TO_PASS": ["tests.test_m.TestA::test_a[x]", "tests.test_m::test_b"],
    }
    assert instance_from_row(row, "here").fail_to_pass == (
        "tests/test_m.py::TestA::test_a[x]",
        "tests/test_m.py::test_b",
    )


def test_an_instance_is_read_as_it_was_written_and_its_hash_ignores_its_name() -> None:
    instance = instance_from_row(BENCH, "here")
    document = instance.to_json()
    assert Instance.from_json(json.loads(json.dumps(document))) == instance
    assert instance_from_row(document, "here") == instance
    renamed = Instance.from_json({**document, "instance_id": "other", "problem_statement": "?"})
    assert renamed.content_hash == instance.content_hash
    changed = Instance.from_json({**document, "patch": PATCH + "\n"})
    assert changed.content_hash != instance.content_hash


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (without(BENCH, "patch"), "no 'patch'; it has FAIL_TO_PASS"),
        ({**BENCH, "patch": 5}, "'patch' must be text, not 5"),
        ({**BENCH, "FAIL_TO_PASS": "not JSON"}, "'FAIL_TO_PASS' is no JSON list: 'not JSON'"),
        ({**BENCH, "FAIL_TO_PASS": [1]}, "'FAIL_TO_PASS' must be a list of test names"),
        ({**BENCH, "FAIL_TO_PASS": []}, "'fail_to_pass' is empty"),
        ({**BENCH, "setup": {"requirement": []}}, "'setup.requirement' does not exist"),
        ({**BENCH, "setup": {"runner": "nose"}}, "runner='nose': choose pytest or functions"),
        ({**SMITH, "patch": "nothing"}, "no diff in it"),
        ({"responses_create_params": {}}, "'responses_create_params.metadata' is missing"),
        (
            {"responses_create_params": {"metadata": {"instance_dict": "{"}}},
            "instance_dict' is not JSON",
        ),
        ({"fail_to_pass": ["t.py::a"], "extra": 1}, "'extra' is no key of an instance"),
        ({"fail_to_pass": ["t.py::a"], "patch": ""}, "'instance_id' is missing"),
        (
            {**instance_from_row(BENCH, "").to_json(), "tree": {"a": "b"}},
            "give either 'repo' with 'base_commit', or 'tree'",
        ),
    ],
)
def test_a_bad_row_is_named_by_file_line_and_key(
    tmp_path: Path, row: dict[str, Any], message: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{json.dumps(BENCH)}\n\n{json.dumps(row)}\n")
    with pytest.raises(TaskFileError) as error:
        open_table(SourceConfig(kind="swe", name=str(path)))
    assert f"{path}, line 3: " in str(error.value)
    assert message in str(error.value)


def test_jsonl_and_parquet_become_tasks_in_both_forms(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(BENCH))
    [source] = file_source(str(path), TasksConfig(path=str(path), verifier="swe"))
    task = open_table(source)[0]
    assert (task.verifier, task.source, task.is_agentic) == ("swe", "rows", False)
    assert "It is wrong." in task.messages[0].content
    assert "<file path=m.py>\na\n</file>" in task.messages[0].content
    assert task.solution == PATCH
    parquet = tmp_path / "rows.parquet"
    datasets.Dataset.from_list([without(BENCH, "shown_files")]).to_parquet(parquet)
    agent = open_table(SourceConfig(kind="swe", name=str(parquet), options={"form": "agent"}))[0]
    assert agent.is_agentic
    assert "tool_calls" in agent.messages[0].content
    assert PATCH not in agent.messages[0].content


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([without(BENCH, "shown_files")], {}, "'shown_files' is empty"),
        ([BENCH], {"form": "essay"}, "options.form='essay': choose single_shot or agent"),
        ([BENCH], {"shape": "agent"}, "options.shape: there is only form"),
        ([BENCH, BENCH], {}, "line 2: 'instance_id' o__r-1 is there twice"),
        ([], {}, "no instance in it"),
    ],
)
def test_a_file_that_makes_no_tasks_is_refused(
    tmp_path: Path, rows: list[Any], options: dict[str, Any], message: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ConfigError, match=message):
        open_table(SourceConfig(kind="swe", name=str(path), options=options))
