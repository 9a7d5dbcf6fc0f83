"""Weights through Ray's object store: one copy a machine, which engines read in place."""

from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError
from torch import Tensor

from cispo.errors import WeightSyncError
from cispo.types import PolicyVersion
from cispo.weights.buckets import WeightBucket
from cispo.weights.outlet import TwoBuffers


@dataclass(frozen=True, slots=True)
class StoredBucket:
    """A bucket in the object store, which keeps it while a ticket is left.

    Attributes:
        reference: Ray's.
        label: What messages call the bucket.
    """

    reference: Any
    label: str

    @classmethod
    def put(cls, bucket: WeightBucket) -> "StoredBucket":
        """Copy a bucket into the object store."""
        return cls(ray.put(bucket), bucket.label)

    def fetch(self) -> WeightBucket:
        """Read it; see `cispo.weights.outlet.Ticket`."""
        try:
            bucket: WeightBucket = ray.get(self.reference)
        except RayError as error:
            raise WeightSyncError(f"{self.label} is lost from the object store: {error}") from error
        return bucket

    def discard(self) -> None:
        """The store forgets it with its last ticket."""


@dataclass(frozen=True, slots=True)
class ObjectStore:
    """The route; see `cispo.weights.outlet.Route`."""

    def outlet(self) -> "ObjectStoreOutlet":
        """Open the learner's end."""
        return ObjectStoreOutlet()


class ObjectStoreOutlet:
    """Puts buckets into the object store; see `cispo.weights.outlet.Outlet`."""

    def __init__(self) -> None:
        self.fault: str | None = None
        self._buffers = TwoBuffers()

    def begin(self, version: PolicyVersion) -> None:
        """The store forgets the version before once its tickets are gone."""

    def allocate(self, num_bytes: int) -> Tensor:
        """Return one of two buffers, since the store copies them."""
        return self._buffers.allocate(num_bytes)

    def send(self, bucket: WeightBucket) -> StoredBucket:
        """Copy a bucket into the store."""
        return StoredBucket.put(bucket)

    def close(self) -> None:
        """Nothing is open."""
