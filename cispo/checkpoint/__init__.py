"""Atomic, checksummed save and restore of everything that a run is; knows no torch."""

from cispo.checkpoint.finding import Found, complete_checkpoints, find_checkpoint
from cispo.checkpoint.groups import load_groups
from cispo.checkpoint.manifest import checkpoint_bytes, load_state
from cispo.checkpoint.saving import Checkpoints
from cispo.checkpoint.state import FREE_KEYS, RunState, refuse_other_config

__all__ = [
    "FREE_KEYS",
    "Checkpoints",
    "Found",
    "RunState",
    "checkpoint_bytes",
    "complete_checkpoints",
    "find_checkpoint",
    "load_groups",
    "load_state",
    "refuse_other_config",
]
