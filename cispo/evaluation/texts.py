"""Engines that answer in texts without a model: from a file, always right, always wrong."""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cispo.errors import ConfigError, RolloutError, TaskFileError
from cispo.types import PolicyVersion, Rollout, StopReason, Task

WRONG = "I do not know."

_COLUMNS = (("task_id", "response"), ("instance_id", "model_patch"))


def text_rollout(
    task: Task,
    text: str,
    *,
    num_tokens: int = 1,
    num_prompt_tokens: int = 0,
    stop_reason: StopReason = StopReason.END_OF_TURN,
) -> Rollout:
    """Wrap an answer of which only the text and perhaps the length are known."""
    num_action = max(num_tokens, 1)
    return Rollout(
        task_id=task.task_id,
        token_ids=[0] * (num_prompt_tokens + num_action),
        action_mask=[False] * num_prompt_tokens + [True] * num_action,
        behaviour_logprobs=[0.0] * (num_prompt_tokens + num_action),
        text=text,
        stop_reason=stop_reason,
        oldest_version=PolicyVersion(0),
        newest_version=PolicyVersion(0),
    )


class TextEngine:
    """Answers each task with texts that are known beforehand; see `cispo.ports.RolloutEngine`."""

    def __init__(self, texts: Callable[[Task, int], Sequence[str]]) -> None:
        """Take what gives so many texts for a task."""
        self._texts = texts

    async def sample(self, task: Task, count: int, *, seed: int) -> Sequence[Rollout]:
        """Return the texts.

        Raises:
            RolloutError: There are none for the task.
        """
        return [text_rollout(task, text) for text in self._texts(task, count)]


def perfect_texts(task: Task, count: int) -> Sequence[str]:
    """Answer rightly, from what judging the task needs.

    Raises:
        RolloutError: Nothing tells a right answer.
    """
    return [_right_answer(task)] * count


def wrong_texts(task: Task, count: int) -> Sequence[str]:
    """Answer with nothing that could be right."""
    return [WRONG] * count


def texts_of_file(path: Path) -> Callable[[Task, int], Sequence[str]]:
    """Read answers that others made: `task_id` and `response`, or SWE-bench's predictions.

    Raises:
        ConfigError: There is no such file.
        TaskFileError: A line is no answer.
    """
    path = path.expanduser()
    if not path.is_file():
        raise ConfigError(f"answers={path}: no such file")
    known: defaultdict[str, list[str]] = defaultdict(list)
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            task_id, text = _named_text(line, f"{path}, line {number}")
            known[task_id].append(text)

    def texts(task: Task, count: int) -> Sequence[str]:
        found = known.get(task.task_id, [])
        if len(found) < count:
            raise RolloutError(
                f"answers={path}: {len(found)} answers to {task.task_id}, {count} are wanted; set "
                "num_rollouts of the set"
            )
        return found[:count]

    return texts


def _named_text(line: str, place: str) -> tuple[str, str]:
    try:
        row: Mapping[str, Any] = json.loads(line)
        for name, text in _COLUMNS:
            if name in row and isinstance(row.get(text), str):
                return str(row[name]), row[text]
    except (ValueError, TypeError) as error:
        raise TaskFileError(f"{place}: not JSON ({error})") from error
    raise TaskFileError(
        f"{place}: an answer has task_id and response, or instance_id and model_patch"
    )


def _right_answer(task: Task) -> str:
    truth: Mapping[str, Any] = task.truth
    match task.verifier:
        case "math":
            answer = truth["answer"]
            return rf"\boxed{{{answer[0] if isinstance(answer, list) else answer}}}"
        case "logic" if (stored := truth.get("entry", truth).get("answer")) is not None:
            return f"<answer>{stored}</answer>"
        case "code" if task.solution and "```" not in task.solution:
            return f"```python\n{task.solution}\n```"
        case "swe" if task.solution and "```" not in task.solution:
            return f"```diff\n{task.solution}\n```"
        case _ if task.solution:
            return task.solution
    raise RolloutError(f"task {task.task_id}: nothing tells a right answer; engine=perfect cannot")
