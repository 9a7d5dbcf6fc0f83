"""Safetensors files of bounded size, written a block at a time."""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cispo.policy.lightning.formats.parts import DTYPES, Part
from cispo.policy.lightning.formats.read_safetensors import INDEX, WEIGHTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """A tensor to write.

    Attributes:
        name: Its name.
        dtype: A key of `DTYPES`; parts of another are cast.
        shape: Its shape.
        parts: Its numbers, in order.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    parts: Sequence[Part]

    @property
    def num_bytes(self) -> int:
        """Size of its numbers in the file."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


def write_shards(folder: Path, tensors: Sequence[Outgoing], *, max_shard_bytes: int) -> None:
    """Write model.safetensors, or shards and their index where that would be over the limit.

    A tensor that is larger than the limit gets a shard of its own.
    """
    shards = _shards(tensors, max_shard_bytes)
    if len(shards) == 1:
        _write(folder / WEIGHTS, shards[0])
        return
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write(folder / file, shard)
        weight_map |= dict.fromkeys((tensor.name for tensor in shard), file)
    total = sum(tensor.num_bytes for tensor in tensors)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _shards(tensors: Sequence[Outgoing], limit: int) -> list[list[Outgoing]]:
    shards: list[list[Outgoing]] = [[]]
    size = 0
    for tensor in tensors:
        if shards[-1] and size + tensor.num_bytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.num_bytes
    return shards


def _write(path: Path, tensors: Sequence[Outgoing]) -> None:
    """Write one file; wide numbers first, so that every tensor is aligned."""
    ordered = sorted(tensors, key=lambda tensor: -DTYPES[tensor.dtype].itemsize)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in ordered:
        begin, end = end, end + tensor.num_bytes
        offsets = [begin, end]
        header[tensor.name] = {
            "dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": offsets
        }  # fmt: skip
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little"))
        file.write(encoded)
        for tensor in ordered:
            for part in tensor.parts:
                for block in part.blocks():
                    cast = block.to(DTYPES[tensor.dtype])
                    file.write(cast.contiguous().view(torch.uint8).numpy().data)
        file.flush()
        os.fsync(file.fileno())
