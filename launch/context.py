"""Refuses a run whose requests could exceed the model's positions, before anything is started."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from cispo.config import PolicyConfig, SamplingConfig
from cispo.errors import ConfigError
from cispo.types import Task

_TEMPLATE_TOKENS = 4096
"""More than a chat template adds to the messages."""


def check_context(
    policy: PolicyConfig, sampling: SamplingConfig, tasks: Sequence[Task], *, key: str
) -> None:
    """Refuse a sampling that does not fit the model behind the longest of some prompts.

    The tokenizer is loaded only where it matters: no token has less than one byte.

    Args:
        policy: Its folder; where that is not local, nothing is checked here.
        sampling: With which answers to the tasks are sampled.
        tasks: Whose prompts are measured.
        key: Of the sampling in the configuration.

    Raises:
        ConfigError: With what to set, and the task.
    """
    limit = _max_position_embeddings(Path(policy.path or "").expanduser())
    if limit is None:
        return
    room = limit - sampling.max_new_tokens
    longer = [task for task in tasks if _most_tokens(task) > room]
    if not longer:
        return
    lengths = _prompt_lengths(str(policy.path), longer)
    longest = max(range(len(longer)), key=lambda index: lengths[index])
    if lengths[longest] <= room:
        return
    raise ConfigError(
        f"{key}.max_new_tokens={sampling.max_new_tokens}: with the {lengths[longest]} tokens of "
        f"the prompt of task {longer[longest].task_id} it exceeds max_position_embeddings={limit} "
        f"in {policy.path}/config.json; "
        + (
            f"set it to {limit - lengths[longest]} or less"
            if limit > lengths[longest]
            else "leave such tasks out, or take a model with a longer context"
        )
    )


def check_interruption(
    policy: PolicyConfig, sampling: SamplingConfig, *, max_new_tokens: int, key: str
) -> None:
    """Refuse words that leave no room for an answer when they interrupt a thought.

    Args:
        policy: Whose tokenizer counts them.
        sampling: With the words, and the thoughts that they end.
        max_new_tokens: The smallest budget that a rollout may have.
        key: Of the sampling in the configuration.

    Raises:
        ConfigError: With what to set.
    """
    if not sampling.interruption:
        return
    from cispo.policy.load import load_tokenizer

    tokenizer = load_tokenizer(str(policy.path))
    count = len(tokenizer.encode(sampling.interruption, add_special_tokens=False))
    if sampling.max_thinking_tokens + count >= max_new_tokens:
        raise ConfigError(
            f"{key}.max_thinking_tokens={sampling.max_thinking_tokens}: with the {count} tokens of "
            f"{key}.interruption no answer fits the budget of {max_new_tokens}; "
            f"take less than {max_new_tokens - count}"
        )


def _max_position_embeddings(folder: Path) -> int | None:
    try:
        fields = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # a hub id, or a file whose errors the model's own loading tells better
    limit = fields.get("max_position_embeddings") if isinstance(fields, dict) else None
    return limit if isinstance(limit, int) else None


def _most_tokens(task: Task) -> int:
    return _TEMPLATE_TOKENS + sum(len(message.content.encode()) for message in task.messages)


def _prompt_lengths(path: str, tasks: Sequence[Task]) -> list[int]:
    from cispo.policy.chat import render_prompt  # loads transformers
    from cispo.policy.load import load_tokenizer

    tokenizer = load_tokenizer(path)
    return [len(render_prompt(tokenizer, task.messages)) for task in tasks]
