"""Weights by broadcast from the learner to all engines at once: gloo, or NCCL between GPUs.

The group is one of its own, beside the learner's. Engines come and go, so it is formed anew when
they change. A member that dies or hangs breaks it for all, within the timeout; who was left behind
then fetches what the learner kept. NCCL, which sends through a copy on the GPU, is not verified.
"""

import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributed import PrefixStore, ProcessGroupGloo, TCPStore  # type: ignore[attr-defined]

from cispo.errors import WeightSyncError, WeightTransferError
from cispo.interface import meet_through
from cispo.types import PolicyVersion
from cispo.weights.buckets import WeightBucket, fresh_buffer
from cispo.weights.outlet import TwoBuffers

_LEARNER = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Meeting:
    """Where the learner, as rank 0, and engines form a group; a route, see `outlet.Route`.

    Attributes:
        host: Of the store that `open_store` opened.
        port: Its port.
        name: No other group of that store has it.
        size: The learner and its engines.
        backend: `gloo` or `nccl`.
        timeout_seconds: How long others are waited for.
    """

    host: str
    port: int
    name: str
    size: int
    backend: str
    timeout_seconds: float

    def outlet(self) -> "CollectiveOutlet":
        """Open the learner's end."""
        return CollectiveOutlet(self)


def open_store(host: str) -> TCPStore:
    """Open what members find each other through; it lives as long as the object."""
    return TCPStore(host, 0, None, is_master=True, wait_for_workers=False)


class Circle:
    """A process's membership in a group.

    Args:
        meeting: Where.
        rank: Which member this is.

    Raises:
        WeightTransferError: Not all came.
    """

    def __init__(self, meeting: Meeting, rank: int) -> None:
        self.meeting = meeting
        self._timeout = timedelta(seconds=meeting.timeout_seconds)
        self._device = torch.device("cuda" if meeting.backend == "nccl" else "cpu")
        meet_through(meeting.host)
        try:
            client = TCPStore(
                meeting.host,
                meeting.port,
                None,
                is_master=False,
                timeout=self._timeout,
                wait_for_workers=False,
            )
            self._group = self._join(PrefixStore(meeting.name, client), rank)
        except RuntimeError as error:
            raise WeightTransferError(f"no group of {meeting.size} was formed: {error}") from error

    def broadcast(self, tensor: Tensor) -> None:
        """Send a tensor from the learner to all others, who overwrite theirs.

        Raises:
            WeightTransferError: A member is gone, or stands still.
        """
        if not tensor.numel():
            return
        staged = tensor.to(self._device)  # the tensor itself on the CPU
        try:
            self._group.broadcast(staged, _LEARNER).wait(self._timeout)
        except RuntimeError as error:
            raise WeightTransferError(f"the broadcast of weights broke off: {error}") from error
        if staged is not tensor:
            tensor.copy_(staged)

    def close(self) -> None:
        """Leave; who still waits for this member hears of it at once."""
        self._group = None

    def _join(self, store: PrefixStore, rank: int) -> Any:
        if self.meeting.backend == "gloo":
            return ProcessGroupGloo(store, rank, self.meeting.size, self._timeout)
        from torch.distributed import ProcessGroupNCCL  # builds without CUDA lack it

        options = ProcessGroupNCCL.Options()
        options._timeout = self._timeout
        return ProcessGroupNCCL(store, rank, self.meeting.size, options)


class CollectiveOutlet:
    """Broadcasts buckets, and keeps them for those who miss it; see `outlet.Outlet`.

    What it keeps is one copy of the weights in the memory of the learner's rank 0.

    Args:
        meeting: Where the group is formed, with the first export.

    Attributes:
        version: The version that is kept.
        kept: Its buckets.
        fault: Why engines may not have got all of it.
    """

    def __init__(self, meeting: Meeting) -> None:
        self.version = PolicyVersion(0)
        self.kept: list[WeightBucket] = []
        self.fault: str | None = None
        self._meeting = meeting
        self._circle: Circle | None = None
        self._free: list[Tensor] = []

    def begin(self, version: PolicyVersion) -> None:
        """Forget the version before; meet the engines, where that was not done."""
        self._free = [torch.from_numpy(bucket.buffer) for bucket in self.kept]
        self.kept = []
        self.version = version
        if self._circle is None and self.fault is None:
            try:
                self._circle = Circle(self._meeting, _LEARNER)
            except WeightTransferError as error:
                self.fault = str(error)

    def allocate(self, num_bytes: int) -> Tensor:
        """Return the buffer that held this bucket in the version before."""
        if self._free and len(free := self._free.pop(0)) == num_bytes:
            return free
        return fresh_buffer(num_bytes)

    def send(self, bucket: WeightBucket) -> None:
        """Keep a bucket, and broadcast it while the group holds."""
        self.kept.append(bucket)
        if self._circle is None:
            return
        header = _to_header(bucket)
        try:
            self._circle.broadcast(torch.tensor([len(header), bucket.num_bytes]))
            self._circle.broadcast(header)
            self._circle.broadcast(torch.from_numpy(bucket.buffer))
        except WeightTransferError as error:
            self.fault = str(error)
            self._leave()

    def close(self) -> None:
        """Leave the group."""
        self._leave()

    def _leave(self) -> None:
        if self._circle is not None:
            self._circle.close()
            self._circle = None


@contextmanager
def receiving(circle: Circle, *, reuses_memory: bool) -> Iterator[Iterator[WeightBucket]]:
    """Receive an export, the next bucket while one is being used.

    Leaving does not wait for a bucket that is on its way. No generator of ours holds the thread:
    one that is collected as garbage would wait for it wherever the collector happens to run.

    Args:
        circle: The group.
        reuses_memory: A bucket is overwritten once the next but one is asked for.

    Raises:
        WeightTransferError: The learner or another member is gone, or stands still.
        WeightSyncError: A header cannot be read.
    """
    thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="weights")
    try:
        yield _one_ahead(thread, _received(circle, reuses_memory=reuses_memory))
    finally:
        thread.shutdown(wait=False)


def _one_ahead(
    thread: ThreadPoolExecutor, buckets: Iterator[WeightBucket]
) -> Iterator[WeightBucket]:
    coming: Future[WeightBucket | None] = thread.submit(next, buckets, None)
    while (bucket := coming.result()) is not None:
        coming = thread.submit(next, buckets, None)
        yield bucket


def _received(circle: Circle, *, reuses_memory: bool) -> Iterator[WeightBucket]:
    allocate = TwoBuffers().allocate if reuses_memory else fresh_buffer
    is_last = False
    while not is_last:
        sizes = torch.zeros(2, dtype=torch.int64)
        circle.broadcast(sizes)
        header_bytes, num_bytes = sizes.tolist()
        header = torch.empty(header_bytes, dtype=torch.uint8)
        circle.broadcast(header)
        buffer = allocate(num_bytes)
        circle.broadcast(buffer)
        bucket = _from_header(header, buffer)
        is_last = bucket.index + 1 >= bucket.total
        yield bucket


def _to_header(bucket: WeightBucket) -> Tensor:
    fields = (bucket.index, bucket.total, bucket.names, bucket.shapes, bucket.dtypes)
    text = json.dumps([*fields, bucket.checksum]).encode()
    return torch.from_numpy(np.frombuffer(text, dtype=np.uint8).copy())


def _from_header(header: Tensor, buffer: Tensor) -> WeightBucket:
    try:
        index, total, names, shapes, dtypes, checksum = json.loads(header.numpy().tobytes())
    except ValueError as error:
        raise WeightSyncError(f"a weight bucket's header cannot be read: {error}") from error
    return WeightBucket(
        index=index,
        total=total,
        names=tuple(names),
        shapes=tuple(tuple(shape) for shape in shapes),
        dtypes=tuple(dtypes),
        buffer=buffer.numpy(),
        checksum=checksum,
    )
