"""Publishes the learner's weights to the rollout engine, under a version and a checksum."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from cispo.errors import WeightSyncError
from cispo.types import PolicyVersion


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightExport:
    """All weights of one policy version.

    Attributes:
        version: The version.
        buckets: The buckets in order, or what the transport uses to refer to them.
        checksum: `cispo.weights.buckets.export_checksum` of the buckets as they were sent.
    """

    version: PolicyVersion
    buckets: Sequence[Any]
    checksum: str


class WeightSender(Protocol):
    """Has the weights: the learner."""

    async def export_weights(self, version: PolicyVersion) -> WeightExport:
        """Export the weights as they are now, as this version."""


class WeightReceiver(Protocol):
    """Needs the weights: the rollout engine."""

    async def load_weights(
        self, version: PolicyVersion, buckets: Sequence[Any]
    ) -> Mapping[str, str]:
        """Load the weights everywhere; return what each receiver, by name, found as checksum.

        Raises:
            WeightSyncError: A bucket is damaged or missing.
        """


class Publisher:
    """Implements `cispo.ports.WeightSync` between a learner and an engine.

    Args:
        sender: The learner.
        receiver: The engine.
        version: Version that was published last; 0 for a fresh run. A resumed run publishes the
            version of its checkpoint once more, so it passes that version minus one.
    """

    def __init__(self, sender: WeightSender, receiver: WeightReceiver, *, version: int = 0) -> None:
        self._sender = sender
        self._receiver = receiver
        self._version = version

    async def publish(self) -> PolicyVersion:
        """Copy the weights, compare checksums, and return the new version.

        Raises:
            WeightSyncError: What arrived is not what was sent.
        """
        version = PolicyVersion(self._version + 1)
        export = await self._sender.export_weights(version)
        found = await self._receiver.load_weights(version, export.buckets)
        if not found:
            raise WeightSyncError(f"policy version {version} reached no engine")
        wrong = {name: checksum for name, checksum in found.items() if checksum != export.checksum}
        if wrong:
            raise WeightSyncError(
                f"policy version {version} has checksum {export.checksum} at the learner and "
                + ", ".join(f"{checksum} at {name}" for name, checksum in sorted(wrong.items()))
            )
        self._version = version
        return version
