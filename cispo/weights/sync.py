"""Publishes the learner's weights to the rollout engine, under a version and a checksum."""

import asyncio
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol, TypeAlias

from cispo.errors import WeightSyncError
from cispo.types import Metrics, PolicyVersion
from cispo.weights.collective import Meeting
from cispo.weights.outlet import BUCKET_BYTES, Route, Ticket, WeightExport

Fetch: TypeAlias = Callable[[], Awaitable[Sequence[Ticket]]]
"""Gets the tickets of the newest weights, for those who have to fetch them."""

_log = logging.getLogger(__name__)


class WeightSender(Protocol):
    """Has the weights: the learner."""

    async def export_weights(
        self, version: PolicyVersion, route: Route, *, max_bytes: int
    ) -> WeightExport:
        """Export the weights as they are now, as this version, in buckets of so many bytes."""

    async def open_store(self) -> tuple[str, int]:
        """Open, or find open, a store where a group can meet: its host and port."""

    async def store_weights(self, version: PolicyVersion) -> Sequence[Ticket]:
        """Put what was broadcast last, as this version, where it can be fetched."""


class WeightReceiver(Protocol):
    """Needs the weights: the rollout engine."""

    def expect_weights(self) -> Sequence[str]:
        """Withdraw the weights of before: who joins now waits; return the names of who is here."""

    async def load_weights(
        self, version: PolicyVersion, tickets: Sequence[Ticket]
    ) -> Mapping[str, str]:
        """Load the weights everywhere; return what each receiver, by name, found as checksum.

        Raises:
            WeightSyncError: A bucket is damaged or missing.
        """

    async def hear_weights(
        self, version: PolicyVersion, meeting: Meeting, names: Sequence[str], fetch: Fetch
    ) -> Mapping[str, str]:
        """Receive a broadcast, as ranks 1, 2, ... in the order of the names; who misses it fetches.

        Raises:
            WeightSyncError: A bucket is damaged or missing.
        """


class Publisher:
    """Implements `cispo.ports.WeightSync` and `Meter` between a learner and an engine.

    Args:
        sender: The learner.
        receiver: The engine.
        way: A route, or who opens one.
        bucket_bytes: Of weights that are copied, and under ZeRO 3 gathered, at a time.
        version: Version that was published last; 0 for a fresh run. A resumed run publishes the
            version of its checkpoint once more, so it passes that version minus one.
    """

    def __init__(
        self,
        sender: WeightSender,
        receiver: WeightReceiver,
        way: "Route | Broadcasts",
        *,
        bucket_bytes: int = BUCKET_BYTES,
        version: int = 0,
    ) -> None:
        self._sender = sender
        self._receiver = receiver
        self._way = way
        self._bucket_bytes = bucket_bytes
        self._version = version
        self._seconds = self._export_seconds = 0.0
        self._num_bytes = 0

    async def publish(self) -> PolicyVersion:
        """Copy the weights, compare checksums, and return the new version.

        Raises:
            WeightSyncError: What arrived is not what was sent.
        """
        began = time.perf_counter()
        version = PolicyVersion(self._version + 1)
        export, found = await self._carry(version)
        _compare(export, found)
        self._version = version
        self._num_bytes += export.num_bytes
        self._export_seconds += export.seconds
        self._seconds += time.perf_counter() - began
        return version

    async def _carry(self, version: PolicyVersion) -> tuple[WeightExport, Mapping[str, str]]:
        size = self._bucket_bytes
        if isinstance(self._way, Broadcasts):
            return await self._way.carry(version, self._sender, self._receiver, max_bytes=size)
        self._receiver.expect_weights()
        export = await self._sender.export_weights(version, self._way, max_bytes=size)
        return export, await self._receiver.load_weights(version, export.tickets)

    async def lap(self) -> Metrics:
        """Return what was published since the last lap; the names are in docs/metrics.md."""
        described = {
            "time/sync_seconds": self._seconds,
            "time/sync_export_seconds": self._export_seconds,
            "engine/sync_bytes": float(self._num_bytes),
        }
        self._seconds = self._export_seconds = 0.0
        self._num_bytes = 0
        return described


class Broadcasts:
    """Broadcasts versions, in a group that is formed anew when its members change or it broke.

    Args:
        backend: `gloo` or `nccl`.
        timeout_seconds: How long a broadcast may stand still.
    """

    def __init__(self, *, backend: str, timeout_seconds: float) -> None:
        self._backend = backend
        self._timeout_seconds = timeout_seconds
        self._numbers = itertools.count()
        self._names: Sequence[str] = ()
        self._meeting: Meeting | None = None

    async def carry(
        self,
        version: PolicyVersion,
        sender: WeightSender,
        receiver: WeightReceiver,
        *,
        max_bytes: int,
    ) -> tuple[WeightExport, Mapping[str, str]]:
        """Broadcast a version to all who are here."""
        names = receiver.expect_weights()
        if self._meeting is None or names != self._names:
            self._meeting = await self._new_meeting(sender, size=1 + len(names))
            self._names = names
        stored: list[asyncio.Task[Sequence[Ticket]]] = []

        async def fetch() -> Sequence[Ticket]:
            if not stored:
                stored.append(asyncio.create_task(_stored(sender, version)))
            return await asyncio.shield(stored[0])

        sending = asyncio.create_task(
            sender.export_weights(version, self._meeting, max_bytes=max_bytes)
        )
        hearing = asyncio.create_task(receiver.hear_weights(version, self._meeting, names, fetch))
        try:
            export = await sending
            found = await hearing
        finally:
            sending.cancel()
            hearing.cancel()
        if export.fault is not None:
            _log.warning("weights were not broadcast to all engines: %s", export.fault)
        if export.fault is not None or stored:  # the learner, or an engine, has left the group
            self._meeting = None
        return export, found

    async def _new_meeting(self, sender: WeightSender, *, size: int) -> Meeting:
        host, port = await sender.open_store()
        return Meeting(
            host=host,
            port=port,
            name=f"weights-{next(self._numbers)}",
            size=size,
            backend=self._backend,
            timeout_seconds=self._timeout_seconds,
        )


async def _stored(sender: WeightSender, version: PolicyVersion) -> Sequence[Ticket]:
    _log.warning("policy version %d goes through the object store, for who missed it", version)
    return await sender.store_weights(version)


def _compare(export: WeightExport, found: Mapping[str, str]) -> None:
    if not found:
        raise WeightSyncError(f"policy version {export.version} reached no engine")
    wrong = {name: checksum for name, checksum in found.items() if checksum != export.checksum}
    if wrong:
        raise WeightSyncError(
            f"policy version {export.version} has checksum {export.checksum} at the learner and "
            + ", ".join(f"{checksum} at {name}" for name, checksum in sorted(wrong.items()))
        )
