"""One examination of a machine or a cluster, from its configuration to the findings."""

import os
from collections.abc import Callable
from functools import partial

from cispo.config.doctor import DoctorConfig
from launch.cluster import ENVIRONMENT
from launch.health import accelerators, machine, nodes, services
from launch.health.finding import Check, carry_out


def examine(cfg: DoctorConfig, say: Callable[[str], None]) -> bool:
    """Carry out all checks and return whether none failed.

    Args:
        cfg: What a run would be started with.
        say: Gets a line a check.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    checks: dict[str, Check] = {
        "processors": machine.processors,
        "memory": machine.memory,
        "shm": partial(machine.shared_memory, cfg.cluster.object_store_bytes),
        "files": machine.descriptors,
        "disk": partial(machine.disk, cfg.run_dir, needed=cfg.free_bytes),
        "clock": machine.clock,
        "devices": accelerators.devices,
        "collectives": accelerators.collectives,
        "kernels": accelerators.kernels,
        "sandbox": partial(services.sandbox, cfg.sandbox),
        "wandb": partial(services.tracking, cfg.tracking.wandb_mode),
    }
    if cfg.weights.transport == "file":
        checks["weights"] = partial(
            machine.disk, cfg.weights.folder, needed=0, key="weights.folder"
        )
    if cfg.cluster.address is not None:
        checks["nodes"] = partial(nodes.nodes, cfg.cluster, cfg.run_dir)
    return carry_out(checks, say)
