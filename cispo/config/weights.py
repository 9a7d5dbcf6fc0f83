"""Configuration of how the learner's weights reach the engines."""

from dataclasses import dataclass

from cispo.config.require import require


@dataclass(slots=True, kw_only=True)
class WeightsConfig:
    """The way of the weights.

    Attributes:
        transport: `object_store`: through Ray's. `file`: through files in `folder`, which the
            engines map into their memory; the fastest on one machine. `collective`: broadcast to
            all engines at once, by NCCL where learner and engines have GPUs (not verified by us),
            else by gloo.
        folder: Of `transport=file`: a folder that learner and engines share, in memory on one
            machine, or of the cluster's file system.
        bucket_bytes: Weights that are copied, and under ZeRO 3 gathered, at a time.
        timeout_seconds: Of `transport=collective`: how long a broadcast may stand still before it
            is given up, and the object store is used in its place.
    """

    transport: str = "object_store"
    folder: str = "/dev/shm"
    bucket_bytes: int = 64 * 2**20
    timeout_seconds: float = 60.0

    def __post_init__(self) -> None:
        require(
            self.transport in ("object_store", "file", "collective"),
            "weights.transport",
            self.transport,
            "choose object_store, file or collective",
        )
        require(bool(self.folder), "weights.folder", self.folder, "name a folder")
        require(
            self.bucket_bytes >= 2**16,
            "weights.bucket_bytes",
            self.bucket_bytes,
            "must be >= 65536; 67108864 suits most models",
        )
        require(
            self.timeout_seconds > 0, "weights.timeout_seconds", self.timeout_seconds, "must be > 0"
        )
