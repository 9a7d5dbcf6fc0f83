"""What cannot work in the objective, the optimizer and the learner is refused by name."""

from typing import Any

import pytest

from cispo.config import (
    LearnerConfig,
    ObjectiveConfig,
    Offload,
    OptimizerConfig,
    RunConfig,
    SftConfig,
    SourceConfig,
    TasksConfig,
)
from cispo.errors import ConfigError


def run_config(**changes: Any) -> RunConfig:
    tasks = TasksConfig(sources=[SourceConfig(kind="reasoning_gym", name="chain_sum")])
    return RunConfig(tasks=tasks, **changes)


@pytest.mark.parametrize(
    ("objective", "run", "message"),
    [
        ({"anchor": "old"}, {}, r"objective\.anchor=old: choose one of behaviour, proximal"),
        ({"anchor": "proximal"}, {}, r"objective\.anchor=proximal: .* always 1 and no clip"),
        (
            {"anchor": "proximal"},
            {"updates_per_iteration": 4, "max_staleness": 1},
            r"objective\.correction_max=None: .* max_staleness=1; set it to 2\.0",
        ),
        ({"correction_max": 2.0}, {}, r"objective\.correction_max=2\.0: .* twice"),
        (
            {"anchor": "proximal", "correction_max": 0.5},
            {},
            r"objective\.correction_max=0\.5: .* >= 1",
        ),
    ],
)
def test_an_anchor_that_cannot_work_is_refused(
    objective: dict[str, Any], run: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run_config(objective=ObjectiveConfig(**objective), **run)


def test_a_proximal_anchor_with_several_updates_works() -> None:
    run_config(objective=ObjectiveConfig(anchor="proximal"), updates_per_iteration=16)
    corrected = ObjectiveConfig(anchor="proximal", correction_max=2.0)
    run_config(objective=corrected, updates_per_iteration=16, max_staleness=1)


@pytest.mark.parametrize(
    ("offload", "stage"),
    [(Offload.OPTIMIZER, 0), (Offload.OPTIMIZER_AND_WEIGHTS, 2)],
)
def test_offload_needs_a_stage_that_has_it(offload: Offload, stage: int) -> None:
    with pytest.raises(ConfigError, match=rf"learner\.offload={offload}: .* not {stage}"):
        LearnerConfig(offload=offload, zero_stage=stage)
    LearnerConfig(offload=offload, zero_stage=stage + 1)


def test_offload_is_deepspeeds() -> None:
    with pytest.raises(ConfigError, match=r"learner\.backend=local cannot"):
        LearnerConfig(backend="local", offload="optimizer")
    with pytest.raises(ConfigError, match="choose one of none, optimizer, optimizer_and_weights"):
        LearnerConfig(offload="nvme")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decay": "linear"}, r"decay_steps=0: learner\.optimizer\.decay=linear needs the steps"),
        ({"decay_steps": 9}, r"decay_steps=9: learner\.optimizer\.decay=constant needs 0"),
        ({"decay": "step"}, r"decay=step: choose one of constant, linear, cosine"),
        ({"final_lr_fraction": 2.0}, r"final_lr_fraction=2\.0: must lie in 0\.\.1"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        OptimizerConfig(**options)


def test_the_cold_start_keeps_its_own_schedule() -> None:
    optimizer = OptimizerConfig(decay="cosine", decay_steps=9)
    with pytest.raises(ConfigError, match=r"optimizer\.decay=cosine"):
        SftConfig(tasks=run_config().tasks, optimizer=optimizer)
