"""Task files: what is read, and where a bad line is."""

import json
from pathlib import Path

import datasets
import pytest

from cispo.config import SourceConfig
from cispo.data.rows import read_rows
from cispo.errors import ConfigError, TaskFileError


def source(path: Path, **changes: object) -> SourceConfig:
    return SourceConfig(kind="jsonl", name=str(path), **changes)  # type: ignore[arg-type]


def test_problems_and_answers_become_math_tasks(tmp_path: Path) -> None:
    path = tmp_path / "sums.jsonl"
    path.write_text('{"problem": "1+1?", "answer": "2"}\n\n{"problem": "1+2?", "answer": 3}\n')
    table = read_rows(source(path, instruction="Box it."))
    assert [table[i].truth for i in range(len(table))] == [{"answer": "2"}, {"answer": "3"}]
    assert table[1].messages[0].content == "1+2?\n\nBox it."
    assert (table[1].task_id, table[1].verifier, table[1].source) == ("sums/3", "math", "sums")


def test_a_whole_task_in_a_line_is_taken_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    row = {
        "task_id": "t1",
        "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}],
        "verifier": "code",
        "truth": {"tests": []},
    }
    path.write_text(json.dumps(row))
    task = read_rows(source(path))[0]
    assert (task.task_id, task.verifier, task.truth) == ("t1", "code", {"tests": []})
    assert [m.role for m in task.messages] == ["system", "user"]


def test_the_answer_follows_the_last_marker(tmp_path: Path) -> None:
    path = tmp_path / "gsm.jsonl"
    path.write_text(json.dumps({"problem": "p", "answer": "3+4 #### no\n#### 7"}))
    assert read_rows(source(path, answer_marker="####"))[0].truth == {"answer": "7"}


def test_parquet_is_read_by_column(tmp_path: Path) -> None:
    path = tmp_path / "sums.parquet"
    datasets.Dataset.from_list([{"question": "1+1?", "answer": "2"}]).to_parquet(path)
    table = read_rows(SourceConfig(kind="parquet", name=str(path), problem_field="question"))
    assert table[0].messages[0].content == "1+1?"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json", "line 2: not JSON"),
        ("[1]", "line 2: a task is a JSON object, this is a list"),
        ('{"answer": "2"}', "line 2: no 'problem'; it has answer"),
        ('{"problem": "p"}', "line 2: no 'answer'; it has problem"),
        ('{"problem": "", "answer": "2"}', "line 2: 'problem' must be text"),
        ('{"problem": "p", "answer": null}', "line 2: 'answer' must be text or a number"),
        ('{"problem": "p", "answer": "2", "verifier": 5}', "line 2: 'verifier' must be text"),
        ('{"messages": [{"role": "me"}], "answer": "2"}', "line 2: 'messages' holds"),
        ('{"messages": [], "answer": "2"}', "line 2: 'messages' must be a list of turns"),
        ('{"problem": "p", "truth": "2"}', "line 2: 'truth' must be an object"),
    ],
)
def test_a_bad_line_is_named_by_number(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"problem": "p", "answer": "1"}\n' + line + "\n")
    with pytest.raises(TaskFileError, match=message) as error:
        read_rows(source(path))
    assert str(path) in str(error.value)


def test_a_missing_or_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        read_rows(source(tmp_path / "absent.jsonl"))
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(TaskFileError, match="no task in it"):
        read_rows(source(tmp_path / "empty.jsonl"))
