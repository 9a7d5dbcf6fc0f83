"""Configuration of the Ray cluster."""

from dataclasses import dataclass, field

from cispo.config.require import require


@dataclass(slots=True, kw_only=True)
class ClusterConfig:
    """Ray.

    Attributes:
        address: Address of a running cluster; None starts one on this machine.
        num_nodes: Nodes that a running cluster must have before anything is started on it.
        hosts: Hosts that must be among them, by name; nodes that are missing are then named.
        num_cpus: CPUs that a new local cluster claims; None takes all.
        object_store_bytes: Object store of a new local cluster.
        startup_seconds: Wall time to wait for nodes, and then for actors, before the run stops and
            names those missing.
    """

    address: str | None = None
    num_nodes: int = 1
    hosts: list[str] = field(default_factory=list)
    num_cpus: int | None = None
    object_store_bytes: int = 512 * 2**20
    startup_seconds: float = 300.0

    def __post_init__(self) -> None:
        require(self.num_nodes >= 1, "cluster.num_nodes", self.num_nodes, "must be >= 1")
        require(
            self.address is not None or (self.num_nodes == 1 and not self.hosts),
            "cluster.address",
            self.address,
            f"a new cluster has this machine alone, not cluster.num_nodes={self.num_nodes} "
            f"cluster.hosts={self.hosts}; use cluster=existing",
        )
