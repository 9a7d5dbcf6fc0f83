"""Scores a file of responses without training, and goes on where an earlier call stopped."""

import asyncio
import json
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from cispo.errors import ConfigError, TaskFileError
from cispo.ports import Verifier
from cispo.types import (
    Graded,
    Message,
    PolicyVersion,
    Rollout,
    StopReason,
    Task,
    Ungraded,
    Verdict,
)

_FIELDS = ("task_id", "response", "truth")
_MOST_TOKENS = 2**24
_MOST_CAUSE_CHARACTERS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One line of the input.

    Attributes:
        line: Its number in the file, from 1.
        task_id: Any name; several cases may share one.
        response: A rollout's text.
        truth: What the verifier needs.
        num_tokens: Length of the response, for the over-length penalty; 1 where it is not given.
    """

    line: int
    task_id: str
    response: str
    truth: Mapping[str, Any]
    num_tokens: int


@dataclass(slots=True, kw_only=True)
class Tally:
    """What a scoring came to.

    Attributes:
        graded: Cases with a verdict.
        correct: Of them, those that are right.
        reward_sum: Sum of their rewards.
        causes: Cases without a verdict, by cause.
        seconds: Wall time of this call.
        new: Cases that this call scored.
    """

    graded: int = 0
    correct: int = 0
    reward_sum: float = 0.0
    causes: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    new: int = 0

    def count(self, row: Mapping[str, Any]) -> None:
        """Count a line of the output."""
        if row["verdict"] == "ungraded":
            self.causes[row["cause"]] += 1
            return
        self.graded += 1
        self.correct += row["parts"]["correct"] >= 1.0
        self.reward_sum += row["reward"]

    def lines(self) -> list[str]:
        """Say it."""
        mean = self.reward_sum / self.graded if self.graded else 0.0
        share = self.correct / self.graded if self.graded else 0.0
        said = [
            f"graded {self.graded}, right {self.correct} ({share:.1%}), mean reward {mean:.4f}; "
            f"{self.new} of them now, in {self.seconds:.1f} s"
        ]
        said += [f"ungraded {count}: {cause}" for cause, count in self.causes.most_common()]
        return said


def read_cases(path: Path) -> list[Case]:
    """Read the input, a JSON object a line with `task_id`, `response` and `truth`.

    A truth that is text or a number stands for `{"answer": text}`, and a list of texts for several
    answers of which any will do. A truth of null has no answer: its case becomes ungraded.

    Raises:
        TaskFileError: There is no such file, or a line is not such an object; it is named.
    """
    if not path.is_file():
        raise TaskFileError(f"input={path}: no such file")
    with path.open("rb") as file:
        cases = [_case(n, line, path) for n, line in enumerate(file, start=1) if line.strip()]
    if not cases:
        raise TaskFileError(f"input={path}: holds no case")
    return cases


async def score_cases(
    verifier: Verifier,
    cases: list[Case],
    output: Path,
    *,
    name: str,
    max_concurrent: int,
    advance: Callable[[int], None],
) -> Tally:
    """Score the cases that the output does not hold yet, and append them in their order.

    Args:
        verifier: Grades.
        cases: All of the input.
        output: JSONL; what an earlier call wrote is kept.
        name: The verifier's name.
        max_concurrent: Cases that are graded at once.
        advance: Told how many more are done.

    Raises:
        ConfigError: The output is of another input.
    """
    tally, start = Tally(), time.monotonic()
    done = _resume(output, cases, tally)
    advance(done)
    waiting: deque[asyncio.Task[dict[str, Any]]] = deque()
    with output.open("a", encoding="utf-8") as file:
        try:
            for case in cases[done:]:
                waiting.append(asyncio.create_task(_score(verifier, case, name)))
                if len(waiting) == max_concurrent:
                    _write(file, await waiting.popleft(), tally, advance)
            while waiting:
                _write(file, await waiting.popleft(), tally, advance)
        finally:
            for task in waiting:
                task.cancel()
    tally.seconds, tally.new = time.monotonic() - start, len(cases) - done
    return tally


def _write(
    file: IO[str], row: Mapping[str, Any], tally: Tally, advance: Callable[[int], None]
) -> None:
    file.write(json.dumps(row) + "\n")  # in ASCII, because a name may hold half a surrogate pair
    file.flush()
    tally.count(row)
    advance(1)


async def _score(verifier: Verifier, case: Case, name: str) -> dict[str, Any]:
    task = Task(
        task_id=case.task_id,
        messages=(Message(role="user", content=""),),
        verifier=name,
        truth=case.truth,
    )
    tokens = [0] * case.num_tokens
    rollout = Rollout(
        task_id=case.task_id,
        token_ids=tokens,
        action_mask=[True] * case.num_tokens,
        behaviour_logprobs=[0.0] * case.num_tokens,
        text=case.response,
        stop_reason=StopReason.END_OF_TURN,
        oldest_version=PolicyVersion(0),
        newest_version=PolicyVersion(0),
    )
    start = time.monotonic()
    try:
        verdict = await verifier.grade(task, rollout)
    except Exception as error:  # one case must not keep a file from ever being finished
        verdict = Ungraded(cause=f"the verifier failed: {error!r}"[:_MOST_CAUSE_CHARACTERS])
    seconds = round(time.monotonic() - start, 4)
    return {"line": case.line, "task_id": case.task_id, **_row(verdict), "seconds": seconds}


def _row(verdict: Verdict) -> dict[str, Any]:
    match verdict:
        case Graded(reward=reward, parts=parts):
            return {"verdict": "graded", "reward": reward, "parts": dict(parts)}
        case Ungraded(cause=cause):
            return {"verdict": "ungraded", "cause": cause}


def _resume(output: Path, cases: list[Case], tally: Tally) -> int:
    """Count what an earlier call wrote, drop a line that it did not finish, return how many."""
    if not output.exists():
        return 0
    whole = 0
    rows = []
    with output.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            rows.append(_row_of(line, output))
            whole += len(line)
    known = [(case.line, case.task_id) for case in cases[: len(rows)]]
    if [(row.get("line"), row.get("task_id")) for row in rows] != known:
        raise ConfigError(
            f"output={output}: holds verdicts of another input; name another, or overwrite=true"
        )
    for row in rows:
        tally.count(row)
    with output.open("rb+") as file:
        file.truncate(whole)
    return len(rows)


def _row_of(line: bytes, output: Path) -> dict[str, Any]:
    try:
        row = json.loads(line)
        if isinstance(row, dict):
            return row
    except ValueError:
        pass
    raise ConfigError(
        f"output={output}: holds {_short(line)}, no verdict; name another file, or overwrite=true"
    )


def _case(line: int, content: bytes, path: Path) -> Case:
    place = f"{path}, line {line}"
    try:
        row = json.loads(content.decode("utf-8-sig" if line == 1 else "utf-8"))
    except json.JSONDecodeError as error:
        raise TaskFileError(f"{place}: not JSON ({error.msg} at column {error.colno})") from error
    except UnicodeDecodeError as error:
        raise TaskFileError(f"{place}: not UTF-8 ({error.reason}, byte {error.start})") from error
    except (RecursionError, ValueError) as error:
        raise TaskFileError(f"{place}: not JSON that can be read ({error})") from error
    if not isinstance(row, dict):
        raise TaskFileError(f"{place}: a case is a JSON object, this is a {type(row).__name__}")
    if missing := [name for name in _FIELDS if name not in row]:
        raise TaskFileError(f"{place}: lacks {', '.join(missing)}; it has {', '.join(sorted(row))}")
    if not isinstance(row["response"], str):
        raise TaskFileError(f"{place}: 'response' must be text, is {_short(row['response'])}")
    num_tokens = row.get("num_tokens", 1)
    if type(num_tokens) is not int or not 1 <= num_tokens <= _MOST_TOKENS:
        raise TaskFileError(
            f"{place}: 'num_tokens' must be a number in 1..{_MOST_TOKENS}, is {_short(num_tokens)}"
        )
    return Case(
        line=line,
        task_id=str(row["task_id"]) or f"line {line}",
        response=row["response"],
        truth=_truth(row["truth"], place),
        num_tokens=num_tokens,
    )


def _truth(truth: Any, place: str) -> Mapping[str, Any]:
    if isinstance(truth, dict):
        return truth
    if isinstance(truth, (int, float)):
        return {"answer": str(truth)}
    is_answer = truth is None or isinstance(truth, str)
    if is_answer or (isinstance(truth, list) and all(isinstance(one, str) for one in truth)):
        return {"answer": truth}
    raise TaskFileError(f"{place}: 'truth' must be an object or an answer, is {_short(truth)}")


def _short(value: object) -> str:
    said = repr(value)
    return said if len(said) <= 80 else said[:80] + ".."
