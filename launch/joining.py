"""What of its cluster a run checks before it starts anything there."""

from pathlib import Path

from cispo.config import RunConfig
from cispo.ports import Progress
from launch.nodes import wait_for_nodes
from launch.resume import Resume
from launch.room import check_room, demands
from launch.shared_folders import check_nodes


def check_cluster(cfg: RunConfig, folder: Path, resume: Resume, progress: Progress) -> None:
    """Wait for all nodes, and refuse those on which this run could not work.

    Args:
        cfg: The whole configuration.
        folder: The run's.
        resume: Where the run begins.
        progress: Told which nodes are waited for.

    Raises:
        ConfigError: Nodes are missing, have too little room, do not see the run's folders, or have
            other code; the message names them.
    """
    nodes = wait_for_nodes(cfg.cluster, progress)
    check_room(nodes, demands(cfg.learner, cfg.rollout, cfg.reward))
    if cfg.cluster.address is None:
        return
    written = {"run_dir": folder.absolute()}
    if cfg.weights.transport == "file":
        written["weights.folder"] = Path(cfg.weights.folder).absolute()
    read = {}
    policy = Path(cfg.policy.path or "").expanduser().absolute()
    if cfg.policy.path is not None and policy.is_dir():
        read["policy.path"] = policy
    if resume.checkpoint is not None:
        read["resume"] = resume.checkpoint.absolute()
    check_nodes(
        nodes,
        written=written,
        read=read,
        seconds=cfg.cluster.startup_seconds,
        progress=progress,
    )
