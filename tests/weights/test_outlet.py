"""Buckets go out while the next is gathered, in the memory of two, and failures leave nobody."""

import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from cispo.errors import WeightSyncError
from cispo.types import PolicyVersion
from cispo.weights.buckets import WeightBucket, export_checksum, to_buckets
from cispo.weights.outlet import TwoBuffers, export
from tests.waiting import PATIENCE_SECONDS

TENSORS = {f"layer.{index}": torch.full((100,), float(index)) for index in range(6)}


class Outlet:
    """Notes what it is given; `fails_at` is the bucket that it cannot let out."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.fault: str | None = None
        self.sent: list[str] = []
        self.places: set[int] = set()
        self._buffers = TwoBuffers()
        self._fails_at = fails_at

    def begin(self, version: PolicyVersion) -> None:
        self.sent.clear()

    def allocate(self, num_bytes: int) -> Tensor:
        return self._buffers.allocate(num_bytes)

    def send(self, bucket: WeightBucket) -> None:
        if bucket.index == self._fails_at:
            raise WeightSyncError("no room")
        bucket.verify()  # it was not overwritten before it went out
        self.sent.append(bucket.checksum)
        self.places.add(bucket.buffer.ctypes.data)

    def close(self) -> None: ...


def gathered(outlet: Outlet) -> Iterator[WeightBucket]:
    return to_buckets(TENSORS, max_bytes=400, allocate=outlet.allocate)


def test_all_buckets_go_out_in_order_in_the_memory_of_two() -> None:
    outlet = Outlet()
    for version in (1, 2):
        made = export(PolicyVersion(version), gathered(outlet), outlet)
        assert len(outlet.sent) == len(TENSORS)
        assert made.checksum == export_checksum(outlet.sent)
        assert made.num_bytes == 6 * 400
        assert len(outlet.places) == 2


def test_a_bucket_goes_out_while_the_next_one_is_gathered() -> None:
    going, gathering = threading.Event(), threading.Event()

    class Slow(Outlet):
        def send(self, bucket: WeightBucket) -> None:
            going.set()
            assert gathering.wait(PATIENCE_SECONDS), "nothing was gathered meanwhile"

    def buckets(outlet: Outlet) -> Iterator[WeightBucket]:
        for bucket in gathered(outlet):
            if bucket.index == 1:
                assert going.wait(PATIENCE_SECONDS), "nothing was under way meanwhile"
                gathering.set()
            yield bucket

    outlet = Slow()
    export(PolicyVersion(1), buckets(outlet), outlet)


@pytest.mark.parametrize("fails_at", [0, 3, 5])
def test_a_failure_is_raised_only_after_all_ranks_have_gathered_all(fails_at: int) -> None:
    outlet = Outlet(fails_at)
    num_gathered = 0

    def counted() -> Iterator[WeightBucket]:
        nonlocal num_gathered
        for bucket in gathered(outlet):
            num_gathered += 1
            yield bucket

    with pytest.raises(WeightSyncError, match="no room"):
        export(PolicyVersion(1), counted(), outlet)
    assert num_gathered == len(TENSORS)
    assert len(outlet.sent) == fails_at


def test_a_fault_of_the_outlet_is_passed_on() -> None:
    outlet = Outlet()
    outlet.fault = "somebody slept"
    assert export(PolicyVersion(1), gathered(outlet), outlet).fault == "somebody slept"
