"""Configuration of the examination of a machine or a cluster."""

from dataclasses import dataclass, field

from cispo.config import ClusterConfig, SandboxConfig, TrackingConfig, WeightsConfig
from cispo.config.require import require


@dataclass(slots=True, kw_only=True)
class DoctorConfig:
    """Is all here that a run needs? `python -m launch.doctor`.

    Attributes:
        run_dir: Folder of runs, which all nodes of a cluster must share.
        free_bytes: Room on its disk, below which it is too little.
        sandbox: Where programs will run.
        cluster: Where Ray is; with an address every node is examined.
        weights: With `transport=file` its folder is examined as well.
        tracking: Whether W&B must be reached.
    """

    run_dir: str = "runs"
    free_bytes: int = 5 * 10**9
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    weights: WeightsConfig = field(default_factory=WeightsConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def __post_init__(self) -> None:
        require(self.free_bytes >= 0, "free_bytes", self.free_bytes, "must be >= 0")
