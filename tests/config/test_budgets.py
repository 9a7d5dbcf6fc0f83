"""Budgets, windows and interruptions that cannot work are refused by name."""

from typing import Any

import pytest

from cispo.config import (
    LengthWindowConfig,
    ObjectiveConfig,
    RewardConfig,
    RolloutConfig,
    RunConfig,
    SamplingConfig,
    SourceConfig,
    TasksConfig,
    WindowConfig,
)
from cispo.config.serve import ServeConfig
from cispo.errors import ConfigError

STOP_THINKING = "Time is up. </think>"


def run_config(
    *, sampling: dict[str, Any], backend: str = "lightning", **changes: Any
) -> RunConfig:
    tasks = TasksConfig(sources=[SourceConfig(kind="reasoning_gym", name="chain_sum")])
    rollout = RolloutConfig(backend=backend, sampling=SamplingConfig(**sampling))
    return RunConfig(tasks=tasks, rollout=rollout, **changes)


def windows(*budgets: int, **settings: Any) -> LengthWindowConfig:
    stages = [WindowConfig(max_new_tokens=budget) for budget in budgets]
    return LengthWindowConfig(stages=stages, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"interruption": STOP_THINKING}, r"interruption=.*: nothing is ever interrupted"),
        ({"interruption": "Stop.", "max_thinking_tokens": 9}, r"must end with </think>"),
        (
            {"interruption": STOP_THINKING, "max_thinking_tokens": 9, "stop": ["is up"]},
            r"holds one of stop=\['is up'\]",
        ),
        ({"thinking_jitter_tokens": 1}, r"thinking_jitter_tokens=1: must be 0 or below"),
        (
            {"thinking_jitter_tokens": 9, "max_thinking_tokens": 9},
            r"below max_thinking_tokens=9",
        ),
    ],
)
def test_an_interruption_that_cannot_work_is_refused(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        SamplingConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"budgets": (64, 48)}, r"stages=\[64, 48\]: each window must be larger"),
        ({"budgets": (64, 64)}, r"stages=\[64, 64\]: each window must be larger"),
        ({"budgets": (64,), "iterations": 0}, r"length_window\.iterations=0"),
        ({"budgets": (64,), "perplexity_tolerance": 0.0}, r"perplexity_tolerance=0\.0"),
        ({"budgets": (64,), "near_fraction": 1.5}, r"near_fraction=1\.5: must lie in \(0, 1\]"),
    ],
)
def test_windows_that_cannot_work_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        windows(*settings.pop("budgets"), **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ratio_max": 0.28}, r"stages\[64\]\.ratio_max=0\.28: .* >= 1"),
        ({"max_grad_norm": 0.0}, r"stages\[64\]\.max_grad_norm=0\.0"),
        ({"token_weighting": "mixed"}, r"token_weighting=mixed: choose one of prompt"),
    ],
)
def test_measures_that_cannot_work_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        WindowConfig(max_new_tokens=64, **settings)


@pytest.mark.parametrize(
    ("sampling", "changes", "message"),
    [
        ({"max_new_tokens": 96}, {}, r"max_new_tokens=96: .* the last window, 128"),
        (
            {"max_new_tokens": 128, "max_thinking_tokens": 64},
            {},
            r"max_thinking_tokens=64: no answer could follow in the first window of 64",
        ),
        (
            {"max_new_tokens": 128},
            {"reward": RewardConfig(overlong_cache_tokens=65)},
            r"overlong_cache_tokens=65: must not exceed the first window of 64",
        ),
    ],
)
def test_windows_must_fit_the_budgets_around_them(
    sampling: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run_config(sampling=sampling, length_window=windows(64, 128), **changes)


def test_windows_that_fit_are_taken_and_the_first_is_the_least_budget() -> None:
    cfg = run_config(sampling={"max_new_tokens": 128}, length_window=windows(64, 128))
    assert cfg.length_window.least(128) == 64
    assert LengthWindowConfig().least(128) == 128


@pytest.mark.parametrize("backend", ["vllm", "scripted"])
def test_an_engine_that_cannot_end_thoughts_is_refused(backend: str) -> None:
    message = rf"rollout\.sampling\.max_thinking_tokens=9: rollout\.backend={backend} cannot"
    with pytest.raises(ConfigError, match=message):
        run_config(sampling={"max_thinking_tokens": 9}, backend=backend)


def test_leaving_out_equal_groups_and_replacing_them_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match=r"leave_out_equal=True: .* replaces such groups already"):
        ObjectiveConfig(leave_out_equal=True)
    assert ObjectiveConfig(leave_out_equal=True, dynamic_sampling=False).leave_out_equal


@pytest.mark.parametrize(
    "setting", [{"interruption": STOP_THINKING}, {"thinking_jitter_tokens": 2}]
)
def test_a_server_refuses_what_it_would_ignore(setting: dict[str, Any]) -> None:
    sampling = SamplingConfig(max_thinking_tokens=9, **setting)
    with pytest.raises(ConfigError, match=rf"rollout\.sampling\.{next(iter(setting))}=.* server"):
        ServeConfig(rollout=RolloutConfig(sampling=sampling))
