"""Requests that a model has no positions for."""

import json
import re
from pathlib import Path

import pytest

from cispo.config import PolicyConfig, SamplingConfig
from cispo.errors import ConfigError
from cispo.policy.chat import render_prompt
from cispo.policy.load import bundled_tokenizer, load_tokenizer
from cispo.types import Message, Task
from launch.context import check_context

TOKENIZER = load_tokenizer(str(bundled_tokenizer("bpe1024")))


def folder_with(tmp_path: Path, **fields: object) -> PolicyConfig:
    TOKENIZER.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "minimax", **fields}))
    return PolicyConfig(path=str(tmp_path))


def task(name: str, text: str) -> Task:
    return Task(task_id=name, messages=(Message(role="user", content=text),), verifier="math")


TASKS = [task("short", "1 + 1?"), task("long", "How much is 12 times 12? " * 20)]
LENGTH = len(render_prompt(TOKENIZER, TASKS[1].messages))


def check(policy: PolicyConfig, max_new_tokens: int) -> None:
    sampling = SamplingConfig(max_new_tokens=max_new_tokens)
    check_context(policy, sampling, TASKS, key="rollout.sampling")


def test_what_fits_exactly_is_accepted_and_one_token_more_is_not(tmp_path: Path) -> None:
    policy = folder_with(tmp_path, max_position_embeddings=1000)
    check(policy, 1000 - LENGTH)
    message = (
        f"rollout.sampling.max_new_tokens={1001 - LENGTH}: with the {LENGTH} tokens of the prompt "
        "of task long it exceeds max_position_embeddings=1000"
    )
    with pytest.raises(ConfigError, match=re.escape(message)) as error:
        check(policy, 1001 - LENGTH)
    assert f"set it to {1000 - LENGTH} or less" in str(error.value)


def test_a_prompt_that_never_fits_is_named(tmp_path: Path) -> None:
    policy = folder_with(tmp_path, max_position_embeddings=LENGTH - 1)
    with pytest.raises(ConfigError, match=r"task long .* leave such tasks out"):
        check(policy, 1)


def test_a_model_with_ample_positions_needs_no_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": 1_048_576}))
    check(PolicyConfig(path=str(tmp_path)), 32_000)


def test_where_no_limit_is_known_nothing_is_refused(tmp_path: Path) -> None:
    check(folder_with(tmp_path), 10**9)
    check(PolicyConfig(path="an-organisation/a-model", backend="transformers"), 10**9)
