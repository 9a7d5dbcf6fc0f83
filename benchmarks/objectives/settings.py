"""What the stored result says of how it was found."""

from dataclasses import asdict
from typing import Any

from benchmarks.objectives.cell import BATCHES, DEPTH, GROUP_SIZE, NUM_GROUPS, OBJECTIVES
from benchmarks.objectives.cold_start import ARCHITECTURE, new_model
from benchmarks.objectives.tasks import FAMILIES
from cispo.config import OptimizerConfig


def settings() -> dict[str, Any]:
    """The settings that all cells share, and what they differ in."""
    optimizer = asdict(OptimizerConfig())
    del optimizer["lr"]
    return {
        "groups": NUM_GROUPS,
        "group_size": GROUP_SIZE,
        "updates_per_batch": DEPTH,
        "rollout_batches": BATCHES,
        "zero_variance_groups": "left out, for all objectives, and not replaced",
        "optimizer": optimizer,
        "parameters": sum(parameter.numel() for parameter in new_model().parameters()),
        "architecture": ARCHITECTURE.to_dict(),
        "objectives": {name: asdict(config) for name, config in OBJECTIVES.items()},
        "tasks": {name: repr(family) for name, family in FAMILIES.items()},
    }
