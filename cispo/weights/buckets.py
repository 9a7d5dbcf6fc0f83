"""Named tensors as flat, checksummed byte buffers that cross process borders."""

import hashlib
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cispo.errors import WeightSyncError

ALIGNMENT_BYTES = 16
"""Tensors start at multiples of this in a buffer, so that any dtype may be viewed in place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightBucket:
    """Some of a model's tensors.

    Attributes:
        index: Position of the bucket among all of one export, from 0.
        total: Buckets of that export.
        names: Names of the tensors.
        shapes: Their shapes.
        dtypes: Their dtypes, as `"float32"` or `"bfloat16"`.
        buffer: [N] bytes; Ray hands numpy over without a copy, and torch tensors with one.
        checksum: `digest` of all of the above when the bucket was made.
    """

    index: int
    total: int
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    buffer: npt.NDArray[np.uint8]
    checksum: str

    def digest(self) -> str:
        """Checksum of what the bucket holds now."""
        return _digest(self.index, self.total, self.names, self.shapes, self.dtypes, self.buffer)

    def verify(self) -> None:
        """Compare contents and checksum.

        Raises:
            WeightSyncError: They differ.
        """
        found = self.digest()
        if found != self.checksum:
            raise WeightSyncError(
                f"weight bucket {self.index + 1} of {self.total} ({self.names[0]} to "
                f"{self.names[-1]}) has checksum {found}, its sender had {self.checksum}"
            )

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The tensors by name, as views of the buffer; they may not be written to."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            flat = torch.from_numpy(self.buffer)
        start = 0
        for name, shape, dtype_name in zip(self.names, self.shapes, self.dtypes, strict=True):
            dtype: torch.dtype = getattr(torch, dtype_name)
            size = math.prod(shape) * dtype.itemsize
            yield name, flat[start : start + size].view(dtype).view(shape)
            start += _aligned(size)


def plan_buckets(sizes: Mapping[str, int], *, max_bytes: int) -> list[list[str]]:
    """Split tensors into buckets, in order; a tensor above the limit gets a bucket of its own.

    Args:
        sizes: Bytes of each tensor by name.
        max_bytes: Limit of one bucket.

    Returns:
        Names by bucket.
    """
    plan: list[list[str]] = []
    filled = 0
    for name, size in sizes.items():
        if not plan or filled + _aligned(size) > max_bytes:
            plan.append([])
            filled = 0
        plan[-1].append(name)
        filled += _aligned(size)
    return plan


def make_bucket(tensors: Mapping[str, Tensor], *, index: int, total: int) -> WeightBucket:
    """Copy tensors, from any device, into one bucket."""
    sizes = [tensor.numel() * tensor.element_size() for tensor in tensors.values()]
    buffer = torch.zeros(sum(_aligned(size) for size in sizes), dtype=torch.uint8)
    start = 0
    for tensor, size in zip(tensors.values(), sizes, strict=True):
        # Straight into the buffer; a detour over .contiguous() would cost a second copy.
        target = buffer[start : start + size].view(tensor.dtype).view(tensor.shape)
        target.copy_(tensor.detach())
        start += _aligned(size)
    names = tuple(tensors)
    shapes = tuple(tuple(tensor.shape) for tensor in tensors.values())
    dtypes = tuple(str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values())
    array = buffer.numpy()
    return WeightBucket(
        index=index,
        total=total,
        names=names,
        shapes=shapes,
        dtypes=dtypes,
        buffer=array,
        checksum=_digest(index, total, names, shapes, dtypes, array),
    )


def to_buckets(named_tensors: Mapping[str, Tensor], *, max_bytes: int) -> Iterator[WeightBucket]:
    """Export tensors bucket by bucket, so that no more than one bucket is copied at a time."""
    sizes = {name: t.numel() * t.element_size() for name, t in named_tensors.items()}
    plan = plan_buckets(sizes, max_bytes=max_bytes)
    for index, names in enumerate(plan):
        yield make_bucket(
            {name: named_tensors[name] for name in names}, index=index, total=len(plan)
        )


def exported_tensors(model: torch.nn.Module) -> dict[str, Tensor]:
    """What an export of a model consists of: its parameters, tied ones once, without a copy."""
    return dict(model.named_parameters())


def apply_bucket(model: torch.nn.Module, bucket: WeightBucket) -> None:
    """Verify a bucket and copy its tensors into the model, casting where dtypes differ.

    Raises:
        WeightSyncError: The checksum is wrong, or a name or shape is not the model's.
    """
    bucket.verify()
    parameters = exported_tensors(model)
    with torch.no_grad():
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


def apply_buckets(model: torch.nn.Module, buckets: Iterable[WeightBucket]) -> str:
    """Copy a whole export into a model, one bucket at a time.

    Returns:
        The `export_checksum` of what arrived.

    Raises:
        WeightSyncError: A bucket is damaged, missing, out of order, or leaves a parameter out.
    """
    checksums: list[str] = []
    missing = set(exported_tensors(model))
    total = 0
    for position, bucket in enumerate(buckets):
        if bucket.index != position:
            raise WeightSyncError(
                f"weight bucket {bucket.index + 1} of {bucket.total} arrived as {position + 1}"
            )
        apply_bucket(model, bucket)
        missing.difference_update(bucket.names)
        checksums.append(bucket.checksum)
        total = bucket.total
    if len(checksums) != total or not checksums:
        raise WeightSyncError(f"{len(checksums)} of {total} weight buckets arrived")
    if missing:
        raise WeightSyncError(
            f"the learner did not send {len(missing)} parameters, among them {min(missing)}"
        )
    return export_checksum(checksums)


def export_checksum(checksums: Sequence[str]) -> str:
    """One checksum for a whole export, from those of its buckets in order."""
    return hashlib.blake2b("".join(checksums).encode(), digest_size=16).hexdigest()


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def _digest(
    index: int,
    total: int,
    names: tuple[str, ...],
    shapes: tuple[tuple[int, ...], ...],
    dtypes: tuple[str, ...],
    buffer: npt.NDArray[np.uint8],
) -> str:
    # Lists so that shapes which crossed a border as other sequences still give the same text.
    header = repr((index, total, list(names), [list(map(int, s)) for s in shapes], list(dtypes)))
    hasher = hashlib.blake2b(header.encode(), digest_size=16)
    hasher.update(np.ascontiguousarray(buffer).data)
    return hasher.hexdigest()
