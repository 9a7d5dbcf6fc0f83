"""The learner's end of a transport: buckets go out one by one while the next one is gathered."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from cispo.types import PolicyVersion
from cispo.weights.buckets import WeightBucket, export_checksum, fresh_buffer

BUCKET_BYTES = 64 * 2**20
"""Of weights that are copied, and under ZeRO 3 gathered, at a time."""


class Ticket(Protocol):
    """Stands for a bucket that waits somewhere to be fetched; crosses process borders."""

    def fetch(self) -> WeightBucket:
        """Get the bucket, which nobody has verified yet.

        Raises:
            WeightSyncError: It is not there any more; the message names it.
        """

    def discard(self) -> None:
        """Remove what it stands for, where nothing else would: its learner is gone."""


class Outlet(Protocol):
    """Lets buckets out, in the process of the learner's rank 0.

    Attributes:
        fault: Why engines may not have got what was sent; None where tickets stand for it.
    """

    fault: str | None

    def begin(self, version: PolicyVersion) -> None:
        """Start an export; whoever still wants the one before may find it gone."""

    def allocate(self, num_bytes: int) -> Tensor:
        """Return a buffer for the next bucket; see `cispo.weights.buckets.Allocate`."""

    def send(self, bucket: WeightBucket) -> Ticket | None:
        """Let one bucket out, in a thread; None where it needs no fetching.

        Raises:
            WeightSyncError: There is no room for it, or the like.
        """

    def close(self) -> None:
        """Give back what it holds; no export of it can be fetched any more."""


class Route(Protocol):
    """A way that weights can take, as a value that crosses process borders."""

    def outlet(self) -> Outlet:
        """Open the learner's end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightExport:
    """All weights of one policy version.

    Attributes:
        version: The version.
        tickets: One a bucket, in order; empty where the engines were handed the buckets.
        checksum: `cispo.weights.buckets.export_checksum` of the buckets as they were sent.
        num_bytes: Of all buckets.
        seconds: Wall time from the first gather until the last bucket was out.
        fault: Why not all engines may have got it; None where they did, or have tickets.
    """

    version: PolicyVersion
    tickets: Sequence[Ticket]
    checksum: str
    num_bytes: int
    seconds: float
    fault: str | None = None


class TwoBuffers:
    """Memory of two buckets, used in turns: one goes out while the next one is filled.

    Memory that was used before is filled three times as fast as memory fresh from the system.
    """

    def __init__(self) -> None:
        self._buffers: list[Tensor] = []

    def allocate(self, num_bytes: int) -> Tensor:
        """Return the one that was handed out before the last one, where that is large enough."""
        buffer = self._buffers.pop(0) if len(self._buffers) == 2 else None
        if buffer is None or len(buffer) < num_bytes:
            buffer = fresh_buffer(num_bytes)
        self._buffers.append(buffer)
        return buffer[:num_bytes]


def export(version: PolicyVersion, buckets: Iterator[WeightBucket], outlet: Outlet) -> WeightExport:
    """Let all buckets of a version out.

    Args:
        version: The version.
        buckets: Made one by one, in buffers of the outlet; read to the end whatever happens, since
            other ranks take part in making them.
        outlet: The way out.

    Raises:
        WeightSyncError: See `Outlet.send`.
    """
    began = time.perf_counter()
    checksums: list[str] = []
    tickets: list[Ticket | None] = []
    num_bytes = 0
    under_way: Future[Ticket | None] | None = None
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="weights") as thread:
        try:
            outlet.begin(version)
            for bucket in buckets:
                checksums.append(bucket.checksum)
                num_bytes += bucket.num_bytes
                if under_way is not None:
                    tickets.append(under_way.result())
                under_way = thread.submit(outlet.send, bucket)
            if under_way is not None:
                tickets.append(under_way.result())
        finally:
            for _ in buckets:
                pass
    return WeightExport(
        version=version,
        tickets=[ticket for ticket in tickets if ticket is not None],
        checksum=export_checksum(checksums),
        num_bytes=num_bytes,
        seconds=time.perf_counter() - began,
        fault=outlet.fault,
    )
