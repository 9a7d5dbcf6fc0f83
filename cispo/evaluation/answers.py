"""The answers of an evaluation on disk: a line each, written as they come, read by a next call."""

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cispo.errors import ConfigError
from cispo.types import Graded, Group, Rollout, Verdict

ANSWERS = "answers.jsonl"
SETTINGS = "settings.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One rollout and its verdict.

    Attributes:
        set_name: Set of the problem.
        task_id: The problem.
        member: Which rollout of the problem, from 0.
        text: What was answered.
        vote: What it votes for in maj@k; None for nothing.
        parts: Of the verdict; None where none could be made.
        cause: Why none could be made.
        num_tokens: Length of the answer.
        num_prompt_tokens: Length of the prompt in the policy's tokens; 0 where it is not known.
        stop_reason: Why it ended.
    """

    set_name: str
    task_id: str
    member: int
    text: str
    vote: str | None
    parts: Mapping[str, float] | None
    cause: str | None
    num_tokens: int
    num_prompt_tokens: int
    stop_reason: str

    @property
    def is_right(self) -> bool:
        """Whether it was judged right."""
        return self.parts is not None and self.parts["correct"] >= 1.0


def answers_of(set_name: str, group: Group, votes: Sequence[str | None]) -> list[Answer]:
    """Turn a judged group into answers."""
    members = enumerate(zip(group.rollouts, group.verdicts, votes, strict=True))
    return [
        _answer(set_name, member, rollout, verdict, vote)
        for member, (rollout, verdict, vote) in members
    ]


def _answer(
    set_name: str, member: int, rollout: Rollout, verdict: Verdict, vote: str | None
) -> Answer:
    return Answer(
        set_name=set_name,
        task_id=rollout.task_id,
        member=member,
        text=rollout.text if rollout.submission is None else rollout.submission,
        vote=vote,
        parts=dict(verdict.parts) if isinstance(verdict, Graded) else None,
        cause=None if isinstance(verdict, Graded) else verdict.cause,
        num_tokens=rollout.num_action_tokens,
        num_prompt_tokens=rollout.action_mask.index(True),
        stop_reason=str(rollout.stop_reason),
    )


class AnswerFile:
    """The answers in a folder.

    Args:
        folder: It is made where it does not exist.
        settings: What the answers depend on, by name; names may join later, but where one has
            another value the answers are refused.
        overwrite: Drop what the folder holds.

    Raises:
        ConfigError: The folder holds answers of other settings, or what is no answer.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], *, overwrite: bool) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / ANSWERS
        record = folder / SETTINGS
        if overwrite:
            self._path.unlink(missing_ok=True)
            record.unlink(missing_ok=True)
        wanted = json.loads(json.dumps(settings))
        if record.exists():
            known = json.loads(record.read_text(encoding="utf-8"))
            _require_same(known, wanted, folder)
            wanted = known | wanted
        elif self._path.exists():
            raise ConfigError(
                f"output={folder}: holds answers and no {SETTINGS}; name another folder, or "
                "overwrite=true"
            )
        unfinished = record.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(wanted, indent=1) + "\n", encoding="utf-8")
        os.replace(unfinished, record)
        self._groups = self._read()

    def group(self, set_name: str, task_id: str, *, size: int) -> Sequence[Answer]:
        """Return the first answers to a problem, or none unless `size` are there and judged.

        What could not be judged is tried again by the next call.
        """
        known = self._groups.get((set_name, task_id), {})
        found = [known[member] for member in range(size) if member in known]
        is_whole = len(found) == size and all(answer.parts is not None for answer in found)
        return found if is_whole else ()

    def append(self, answers: Iterable[Answer]) -> None:
        """Write the answers to one problem."""
        lines = [json.dumps(asdict(answer)) + "\n" for answer in answers]
        with self._path.open("a", encoding="utf-8") as file:
            file.write("".join(lines))

    def _read(self) -> dict[tuple[str, str], dict[int, Answer]]:
        """Read the lines, the later of two holds; cut off one that a killed call left half."""
        groups: defaultdict[tuple[str, str], dict[int, Answer]] = defaultdict(dict)
        if not self._path.exists():
            return groups
        whole = 0
        with self._path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    break
                whole += len(line)
                try:
                    answer = Answer(**json.loads(line))
                except (ValueError, TypeError) as error:
                    raise ConfigError(
                        f"output={self._path}, line {number}: no answer ({error}); "
                        "name another folder, or overwrite=true"
                    ) from error
                groups[answer.set_name, answer.task_id][answer.member] = answer
        with self._path.open("rb+") as file:
            file.truncate(whole)
        return groups


def _require_same(known: Mapping[str, Any], wanted: Mapping[str, Any], folder: Path) -> None:
    for key in sorted(set(known) & set(wanted)):
        if known[key] != wanted[key]:
            raise ConfigError(
                f"output={folder}: holds answers of {key}={_short(known[key])}, this is "
                f"{_short(wanted[key])}; name another folder, or overwrite=true"
            )


def _short(value: object) -> str:
    said = json.dumps(value)
    return said if len(said) <= 120 else said[:120] + ".."
