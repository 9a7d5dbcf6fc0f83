"""What an engine does with an export: verifies it, and copies it into its model."""

from collections.abc import Iterable, Iterator
from typing import Self

import torch

from cispo.errors import WeightSyncError
from cispo.weights.buckets import WeightBucket, export_checksum, exported_tensors


class Arrival:
    """The buckets of an export as they come in: each verified once, all of them, in order.

    Args:
        buckets: The buckets; where they are read one by one, each is fetched when it is asked for.
    """

    def __init__(self, buckets: Iterable[WeightBucket]) -> None:
        self._buckets = buckets
        self._checksum: str | None = None

    @classmethod
    def of(cls, buckets: Iterable[WeightBucket]) -> Self:
        """Return the buckets as an arrival, which they may be already."""
        return buckets if isinstance(buckets, cls) else cls(buckets)

    @property
    def checksum(self) -> str:
        """The `export_checksum` of what arrived, once all has."""
        assert self._checksum is not None, "not all weight buckets were read"
        return self._checksum

    def hold(self) -> None:
        """Fetch and verify all buckets before any is used.

        Raises:
            WeightSyncError: As when they are read.
        """
        self._buckets = list(self)

    def __iter__(self) -> Iterator[WeightBucket]:
        """Read on.

        Raises:
            WeightSyncError: A bucket is damaged, missing or out of order.
        """
        if self._checksum is not None:  # held, so verified
            yield from self._buckets
            return
        checksums: list[str] = []
        total = 0
        for position, bucket in enumerate(self._buckets):
            if bucket.index != position:
                raise WeightSyncError(f"{bucket.label} arrived as {position + 1}")
            bucket.verify()
            checksums.append(bucket.checksum)
            total = bucket.total
            yield bucket
        if len(checksums) != total or not checksums:
            raise WeightSyncError(f"{len(checksums)} of {total} weight buckets arrived")
        self._checksum = export_checksum(checksums)


def apply_buckets(model: torch.nn.Module, buckets: Iterable[WeightBucket]) -> str:
    """Copy a whole export into a model, one bucket at a time, casting where dtypes differ.

    Returns:
        The `export_checksum` of what arrived.

    Raises:
        WeightSyncError: A bucket is damaged, missing or out of order, or names and shapes are not
            the model's.
    """
    arrival = Arrival.of(buckets)
    parameters = exported_tensors(model)
    missing = set(parameters)
    for bucket in arrival:
        _copy(parameters, bucket)
        missing.difference_update(bucket.names)
    if missing:
        raise WeightSyncError(
            f"the learner did not send {len(missing)} parameters, among them {min(missing)}"
        )
    return arrival.checksum


@torch.no_grad()
def _copy(parameters: dict[str, torch.Tensor], bucket: WeightBucket) -> None:
    for name, tensor in bucket.tensors():
        target = parameters.get(name)
        if target is None:
            raise WeightSyncError(f"the learner sent {name}, which this model does not have")
        if target.shape != tensor.shape:
            raise WeightSyncError(
                f"{name} arrived with shape {tuple(tensor.shape)}, "
                f"the model has {tuple(target.shape)}"
            )
        target.copy_(tensor)
