"""Public long-context sets from local files: MR-NIAH, OpenAI-MRCR and LongBench-v2."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cispo.config import SourceConfig
from cispo.data.long_context.family import VERIFIER
from cispo.data.long_context.length import TokenCount, middle_cut, token_count
from cispo.data.rows import local_rows
from cispo.errors import ConfigError, TaskFileError
from cispo.types import Message, Task

_LETTERS = "ABCD"
_LIST_MARK = ". "
_OPTIONS = ("format", "tokenizer", "tokens", "needles")


class PublicTable:
    """Tasks of a public file that are held in memory.

    Raises:
        ConfigError: There is no such file or format, or nothing of it is left.
        TaskFileError: A row is bad.
    """

    def __init__(self, source: SourceConfig) -> None:
        form = str(source.options.get("format"))
        if form not in _READERS:
            raise ConfigError(
                f"tasks.sources[{source.name}].options.format={form}: choose one of "
                f"{', '.join(_READERS)}"
            )
        if others := sorted(set(source.options) - set(_OPTIONS)):
            raise ConfigError(
                f"tasks.sources[{source.name}].options.{others[0]}: there are {', '.join(_OPTIONS)}"
            )
        self.name = form
        path = Path(source.name)
        rows, places = local_rows(path, is_parquet=path.suffix == ".parquet")
        self._tasks = []
        for number, (row, place) in enumerate(zip(rows, places, strict=True)):
            try:
                task = _READERS[form](row, f"{form}/{path.stem}/{number}", source.options)
            except (KeyError, TypeError, ValueError) as error:
                raise TaskFileError(f"{place}: no row of {form} ({error!r})") from error
            if task is not None:
                self._tasks.append(task)
        if not self._tasks:
            raise ConfigError(f"{path}: no task of it has {dict(source.options)}")

    def __len__(self) -> int:
        return len(self._tasks)

    def __getitem__(self, row: int) -> Task:
        return self._tasks[row]


def components(label: str) -> list[str]:
    """Split a label of MR-NIAH into what the published scorer looks for.

    A numbered list has its items, three lines are three components, other lines are split at commas
    too; what marks the end of a line is left out.
    """
    lines = [line.strip() for line in label.splitlines() if line.strip()]
    if all(line[:1].isdigit() and _LIST_MARK in line for line in lines):
        return [line.partition(_LIST_MARK)[2] for line in lines]
    if len(lines) != 3:
        lines = [part for line in lines for part in line.replace("，", ",").split(",")]
    return [part.strip().rstrip(".。,，") for part in lines if part.strip()]


def _mr_niah(row: Mapping[str, Any], task_id: str, options: Mapping[str, Any]) -> Task:
    label = _text(row["label"])
    truth = {"form": "components", "parts": components(label)}
    return _task(task_id, "mr_niah", row["messages"], truth, label)


def _openai_mrcr(row: Mapping[str, Any], task_id: str, options: Mapping[str, Any]) -> Task | None:
    if options.get("needles") not in (None, row["n_needles"]):
        return None
    messages = json.loads(row["prompt"])
    prefix, answer = _text(row["random_string_to_prepend"]), _text(row["answer"])
    if "tokens" in options:
        count = _counter(options)
        if (
            sum(count(message["content"]) for message in messages) + count(answer)
            > options["tokens"]
        ):
            return None
    truth = {"form": "verbatim", "prefix": prefix, "text": answer.removeprefix(prefix)}
    return _task(task_id, f"openai_mrcr_{row['n_needles']}", messages, truth, answer)


def _longbench_v2(row: Mapping[str, Any], task_id: str, options: Mapping[str, Any]) -> Task:
    choices = "\n".join(f"({letter}) {row[f'choice_{letter}'].strip()}" for letter in _LETTERS)
    text = _text(row["context"]).strip()
    if "tokens" in options:
        text = middle_cut(text, options["tokens"], _counter(options))
    content = (
        f"Read this text and answer the question about it.\n\n<text>\n{text}\n</text>\n\n"
        f"{row['question'].strip()}\n{choices}\n\n"
        'Answer in this form, with one letter: "The correct answer is (A)".'
    )
    letter = row["answer"]
    if letter not in tuple(_LETTERS):
        raise ValueError(f"answer is {letter!r}, not one of {_LETTERS}")
    return _task(
        str(row.get("_id", task_id)),
        "longbench_v2",
        [{"role": "user", "content": content}],
        {"form": "letter", "letter": letter},
        f"The correct answer is ({letter}).",
    )


_READERS: Mapping[str, Callable[[Mapping[str, Any], str, Mapping[str, Any]], Task | None]] = {
    "mr_niah": _mr_niah,
    "openai_mrcr": _openai_mrcr,
    "longbench_v2": _longbench_v2,
}


def _task(
    task_id: str,
    name: str,
    messages: Sequence[Mapping[str, Any]],
    truth: Mapping[str, object],
    solution: str,
) -> Task:
    return Task(
        task_id=task_id,
        messages=tuple(Message(role=m["role"], content=_text(m["content"])) for m in messages),
        verifier=VERIFIER,
        truth=truth,
        source=name,
        solution=solution,
    )


def _counter(options: Mapping[str, Any]) -> TokenCount:
    return token_count(options.get("tokenizer"))


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError(f"{value!r} is no text")
    return value
