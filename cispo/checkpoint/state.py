"""Where a run stands, and which configurations may go on from there (stdlib only)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cispo.errors import CheckpointError
from cispo.types import PolicyVersion

FREE_KEYS = frozenset(
    {
        "name",
        "run_dir",
        "iterations",
        "resume",
        "checkpoint_every",
        "keep_checkpoints",
        "max_restarts",
        "overwrite",
        "tracking",
        "cluster",
        "watchdog",
        "weights",
        "policy.recompute_layers",
        "learner.backend",
        "learner.num_ranks",
        "learner.sequence_parallel",
        "learner.zero_stage",
        "learner.offload",
        "learner.step_seconds",
        "learner.num_cpus",
        "learner.num_gpus",
    }
)
"""Keys of the configuration that a resumed run may change: none of them alters what is learned.

Those of the learner say by how many processes it is learned and where they keep it: other ones add
the same numbers up in another order.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """Where a run stands, apart from the learner's weights and optimizer.

    Attributes:
        iteration: Iterations that are done.
        version: Policy version that was published last.
        next_task_index: Tasks that were consumed, which is where the stream goes on.
        config: The run's whole configuration as plain values, its seed included.
        tracker_run_id: The W&B run that the metrics belong to, or None where there is none.
        schedules: What `cispo.schedules.Schedules.state` returned.
    """

    iteration: int
    version: PolicyVersion
    next_task_index: int
    config: Mapping[str, Any]
    tracker_run_id: str | None = None
    schedules: Mapping[str, Any] = field(default_factory=dict)


def refuse_other_config(state: RunState, config: Mapping[str, Any]) -> None:
    """Check that a run with this configuration may continue the checkpoint.

    Raises:
        CheckpointError: Keys outside `FREE_KEYS` differ; the message names them with both values.
    """
    ours = _flat(json.loads(json.dumps(config)))
    theirs = _flat(state.config)
    different = [
        f"{key} is {ours.get(key)!r}, the checkpoint has {theirs.get(key)!r}"
        for key in sorted(ours.keys() | theirs.keys())
        if not _is_free(key) and ours.get(key) != theirs.get(key)
    ]
    if different:
        raise CheckpointError(
            "this run cannot continue the checkpoint, its configuration differs: "
            + "; ".join(different)
        )


def _is_free(key: str) -> bool:
    parents = key.split(".")
    return any(".".join(parents[:depth]) in FREE_KEYS for depth in range(1, len(parents) + 1))


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
