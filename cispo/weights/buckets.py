"""Named tensors as flat, checksummed byte buffers that cross process borders."""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import xxhash
from torch import Tensor

from cispo.errors import WeightSyncError

ALIGNMENT_BYTES = 16
"""Tensors start at multiples of this in a buffer, so that any dtype may be viewed in place."""

Allocate: TypeAlias = Callable[[int], Tensor]
"""Returns a buffer of so many bytes, [N] uint8 on the CPU, whatever it holds."""


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

    @property
    def label(self) -> str:
        """What messages call it."""
        names = f"{self.names[0]} to {self.names[-1]}"
        return f"weight bucket {self.index + 1} of {self.total} ({names})"

    @property
    def num_bytes(self) -> int:
        """What the buffer holds, or has to hold."""
        sizes = (_size(*of) for of in zip(self.shapes, self.dtypes, strict=True))
        return sum(map(_aligned, sizes))

    def digest(self) -> str:
        """Checksum of what the bucket holds now: 128 bits of XXH3, made against accidents."""
        # Lists so that shapes which crossed a border as other sequences still give the same text.
        shapes = [list(map(int, shape)) for shape in self.shapes]
        header = (self.index, self.total, list(self.names), shapes, list(self.dtypes))
        hasher = xxhash.xxh3_128(repr(header).encode())
        hasher.update(np.ascontiguousarray(self.buffer).data)
        return hasher.hexdigest()

    def verify(self) -> None:
        """Compare contents and checksum.

        Raises:
            WeightSyncError: They differ.
        """
        found = self.digest()
        if found != self.checksum:
            raise WeightSyncError(
                f"{self.label} has checksum {found}, its sender had {self.checksum}"
            )

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """The tensors by name, as views of the buffer; they may not be written to."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            flat = torch.from_numpy(self.buffer)
        start = 0
        for name, shape, dtype in zip(self.names, self.shapes, self.dtypes, strict=True):
            size = _size(shape, dtype)
            yield name, flat[start : start + size].view(getattr(torch, dtype)).view(shape)
            start += _aligned(size)

    def without_buffer(self) -> "WeightBucket":
        """All that is known of it but what it holds, for a transport that carries that itself."""
        return replace(self, buffer=np.zeros(0, dtype=np.uint8))


@dataclass(frozen=True, slots=True)
class Packed:
    """Tensors that were copied into a buffer, and no checksum yet."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    buffer: Tensor

    def seal(self, *, index: int, total: int) -> WeightBucket:
        """Make the bucket of a place in an export."""
        unsealed = WeightBucket(
            index=index,
            total=total,
            names=self.names,
            shapes=self.shapes,
            dtypes=self.dtypes,
            buffer=self.buffer.numpy(),
            checksum="",
        )
        return replace(unsealed, checksum=unsealed.digest())


def fresh_buffer(num_bytes: int) -> Tensor:
    """Allocate; see `Allocate`. Where there is a GPU, in memory that it can copy to directly."""
    return torch.empty(num_bytes, dtype=torch.uint8, pin_memory=torch.cuda.is_available())


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


def pack(tensors: Mapping[str, Tensor], *, allocate: Allocate = fresh_buffer) -> Packed:
    """Copy tensors, from any device, into one buffer."""
    sizes = [tensor.numel() * tensor.element_size() for tensor in tensors.values()]
    buffer = allocate(sum(map(_aligned, sizes)))
    start = 0
    for tensor, size in zip(tensors.values(), sizes, strict=True):
        # Straight into the buffer; a detour over .contiguous() would cost a second copy.
        target = buffer[start : start + size].view(tensor.dtype).view(tensor.shape)
        target.copy_(tensor.detach())
        end = start + _aligned(size)
        buffer[start + size : end] = 0
        start = end
    return Packed(
        names=tuple(tensors),
        shapes=tuple(tuple(tensor.shape) for tensor in tensors.values()),
        dtypes=tuple(str(t.dtype).removeprefix("torch.") for t in tensors.values()),
        buffer=buffer,
    )


def make_bucket(tensors: Mapping[str, Tensor], *, index: int, total: int) -> WeightBucket:
    """Copy tensors, from any device, into one bucket."""
    return pack(tensors).seal(index=index, total=total)


def to_buckets(
    named_tensors: Mapping[str, Tensor], *, max_bytes: int, allocate: Allocate = fresh_buffer
) -> Iterator[WeightBucket]:
    """Export tensors bucket by bucket, so that no more than one bucket is copied at a time."""
    sizes = {name: t.numel() * t.element_size() for name, t in named_tensors.items()}
    plan = plan_buckets(sizes, max_bytes=max_bytes)
    for index, names in enumerate(plan):
        tensors = {name: named_tensors[name] for name in names}
        yield pack(tensors, allocate=allocate).seal(index=index, total=len(plan))


def exported_tensors(model: torch.nn.Module) -> dict[str, Tensor]:
    """What an export of a model consists of: its parameters, tied ones once, without a copy."""
    return dict(model.named_parameters())


def export_checksum(checksums: Iterable[str]) -> str:
    """One checksum for a whole export, from those of its buckets in order."""
    return xxhash.xxh3_128("".join(checksums).encode()).hexdigest()


def _size(shape: Sequence[int], dtype: str) -> int:
    itemsize: int = getattr(torch, dtype).itemsize
    return math.prod(shape) * itemsize


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
