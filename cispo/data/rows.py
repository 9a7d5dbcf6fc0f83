"""Tasks from rows of a table: local JSONL and parquet files, or a data set of the hub."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cispo.config import SourceConfig
from cispo.data.code_rows import UnsoundTestsError, code_task
from cispo.errors import ConfigError, TaskFileError
from cispo.types import Message, Task

_LOG = logging.getLogger(__name__)


class RowTable:
    """Tasks made from rows that are held in memory.

    A row is either a whole task (`messages`, `verifier`, `truth`) or a problem with an answer in
    the columns that the
    source names. `where` says where row i came from, for errors. With `options.leaves_out_unsound`
    programming problems whose tests cannot be used are left out with a warning.

    Raises:
        TaskFileError: A row lacks a column or holds the wrong type; the message says which row and
            column.
    """

    def __init__(
        self, source: SourceConfig, rows: Sequence[Mapping[str, Any]], where: Sequence[str]
    ) -> None:
        if not rows:
            raise TaskFileError(f"{source.name}: no task in it")
        self.name = Path(source.name).stem if source.kind != "huggingface" else source.name
        self._tasks = []
        left_out = []
        for row, place in zip(rows, where, strict=True):
            try:
                self._tasks.append(_task(row, source, name=self.name, place=place))
            except TaskFileError as error:
                is_unsound = isinstance(error.__cause__, UnsoundTestsError)
                if not (is_unsound and source.options.get("leaves_out_unsound")):
                    raise
                left_out.append(error)
        if left_out:
            _LOG.warning(
                "%d of %d rows are left out, their tests cannot be used: %s",
                *(len(left_out), len(rows), left_out[0]),
            )
        if not self._tasks:
            raise TaskFileError(f"{source.name}: no task in it can be used")

    def __len__(self) -> int:
        return len(self._tasks)

    def __getitem__(self, row: int) -> Task:
        return self._tasks[row]


def read_rows(source: SourceConfig) -> RowTable:
    """Read the table that a source of kind `jsonl`, `parquet` or `huggingface` names.

    Raises:
        ConfigError: The file or data set cannot be had.
        TaskFileError: A line or row is bad.
    """
    if source.kind == "huggingface":
        rows = _hub_rows(source)
        places = [f"{source.name} {source.split}[{i}]" for i in range(len(rows))]
        return RowTable(source, rows, places)
    rows, places = local_rows(Path(source.name), is_parquet=source.kind == "parquet")
    return RowTable(source, rows, places)


def local_rows(path: Path, *, is_parquet: bool) -> tuple[list[Mapping[str, Any]], list[str]]:
    """Read a file's rows as they are, and the place of each for messages.

    Raises:
        ConfigError: There is no such file.
        TaskFileError: A line is no JSON object.
    """
    path = path.expanduser()
    if not path.is_file():
        raise ConfigError(f"tasks.path={path}: no such file; give a JSONL or parquet file of tasks")
    if is_parquet:
        import pyarrow.parquet

        table = pyarrow.parquet.read_table(path).to_pylist()
        return table, [f"{path}, row {i}" for i in range(len(table))]
    rows: list[Mapping[str, Any]] = []
    where = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                rows.append(_json_object(line, f"{path}, line {number}"))
                where.append(f"{path}, line {number}")
    return rows, where


def _json_object(line: str, place: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise TaskFileError(f"{place}: not JSON ({error.msg} at column {error.colno})") from error
    if not isinstance(row, dict):
        raise TaskFileError(f"{place}: a task is a JSON object, this is a {type(row).__name__}")
    return row


def _hub_rows(source: SourceConfig) -> list[Mapping[str, Any]]:
    import datasets

    try:
        return list(datasets.load_dataset(source.name, source.subset, split=source.split))
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise ConfigError(
            f"tasks.sources: cannot load {source.name} (subset {source.subset}, split "
            f"{source.split}): {error}; without a connection to the hub give a local file, "
            "tasks.path=FILE.jsonl"
        ) from error


def _task(row: Mapping[str, Any], source: SourceConfig, *, name: str, place: str) -> Task:
    verifier = row.get("verifier", source.verifier)
    if verifier == "code" and "truth" not in row:
        row = _read_code_row(row, source, place)
    solution = row.get("solution")
    return Task(
        task_id=str(row.get("task_id", f"{name}/{place.rpartition(' ')[2].strip('[]')}")),
        messages=_messages(row, source, place),
        verifier=_text(verifier, "verifier", place),
        truth=_truth(row, source, place),
        source=str(row.get("source_name", name)),
        solution=solution if isinstance(solution, str) else None,
        pass_rate=_pass_rate(row, place),
    )


def _pass_rate(row: Mapping[str, Any], place: str) -> float | None:
    rate = row.get("pass_rate")
    is_number = isinstance(rate, (int, float)) and not isinstance(rate, bool)
    if rate is not None and not (is_number and 0 <= rate <= 1):
        raise TaskFileError(f"{place}: 'pass_rate' must be a number in 0..1 or null, is {rate!r}")
    return None if rate is None else float(rate)


def _read_code_row(row: Mapping[str, Any], source: SourceConfig, place: str) -> dict[str, Any]:
    """Put a public data set's problem into the columns of a task."""
    try:
        problem, truth, solution = code_task(row)
    except UnsoundTestsError as error:
        raise TaskFileError(f"{place}: {error}") from error
    identity = row.get("task_id", row.get("id"))
    named = {} if identity is None else {"task_id": str(identity)}
    return {**named, source.problem_field: problem, "truth": truth, "solution": solution}


def _messages(row: Mapping[str, Any], source: SourceConfig, place: str) -> tuple[Message, ...]:
    if "messages" not in row:
        problem = _text(_column(row, source.problem_field, place), source.problem_field, place)
        content = f"{problem}\n\n{source.instruction}" if source.instruction else problem
        return (Message(role="user", content=content),)
    messages = row["messages"]
    if not isinstance(messages, list) or not messages:
        raise TaskFileError(f"{place}: 'messages' must be a list of turns, not {messages!r}")
    roles = ("system", "user", "assistant")
    for message in messages:
        if not isinstance(message, dict) or message.get("role") not in roles:
            raise TaskFileError(f"{place}: 'messages' holds {message!r}; give role and content")
    return tuple(
        Message(role=m["role"], content=_text(_column(m, "content", place), "content", place))
        for m in messages
    )


def _truth(row: Mapping[str, Any], source: SourceConfig, place: str) -> Mapping[str, object]:
    if "truth" in row:
        if not isinstance(row["truth"], dict):
            raise TaskFileError(f"{place}: 'truth' must be an object, not {row['truth']!r}")
        return dict(row["truth"])
    answer = _column(row, source.answer_field, place)
    if not isinstance(answer, (str, int, float)) or isinstance(answer, bool) or answer == "":
        raise TaskFileError(
            f"{place}: {source.answer_field!r} must be text or a number, is {answer!r}"
        )
    text = str(answer)
    if source.answer_marker:
        text = text.rpartition(source.answer_marker)[2].strip()
    return {"answer": text}


def _column(row: Mapping[str, Any], column: str, place: str) -> object:
    if column not in row:
        raise TaskFileError(f"{place}: no {column!r}; it has {', '.join(sorted(row)) or 'nothing'}")
    return row[column]


def _text(value: object, column: str, place: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise TaskFileError(f"{place}: {column!r} must be text that is not empty, not {value!r}")
    return value
