"""Where the tensors of safetensors files are, and their numbers a block at a time."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from cispo.errors import ConfigError
from cispo.policy.lightning.formats.parts import BLOCK_BYTES, DTYPES, Part

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"

_MAX_HEADER_BYTES = 10**8
"""The format's own limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A tensor in a file.

    Attributes:
        file: The file.
        dtype: A key of `DTYPES`.
        shape: Its shape.
        begin: Where it begins in the file, in bytes.
    """

    file: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int

    def parts(self, count: int) -> list[Part]:
        """Cut the tensor into `count` runs of equal length."""
        size = math.prod(self.shape) // count
        return [
            Part(dtype=self.dtype, num_elements=size, blocks=partial(self._read, i * size, size))
            for i in range(count)
        ]

    def _read(self, at: int, size: int) -> Iterator[Tensor]:
        dtype = DTYPES[self.dtype]
        step = BLOCK_BYTES // dtype.itemsize
        with self.file.open("rb") as file:
            file.seek(self.begin + at * dtype.itemsize)
            for start in range(0, size, step):
                block = bytearray(min(step, size - start) * dtype.itemsize)
                if file.readinto(block) != len(block):
                    raise ConfigError(f"{self.file} ended while it was read")
                yield torch.frombuffer(block, dtype=dtype)


def read_entries(folder: Path) -> dict[str, Entry]:
    """Find all tensors of a folder's model.safetensors, or of the shards that its index names.

    Raises:
        ConfigError: A file is missing, cut off or no safetensors, or the index is wrong about it.
    """
    if not (folder / INDEX).is_file():
        return _entries_of(folder / WEIGHTS)
    try:
        weight_map = json.loads((folder / INDEX).read_text())["weight_map"]
        files = sorted(set(weight_map.values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ConfigError(f"{folder / INDEX} is no index with a weight_map: {error!r}") from error
    entries: dict[str, Entry] = {}
    for file in files:
        entries |= _entries_of(folder / file)
    for name, file in weight_map.items():
        if name not in entries or entries[name].file.name != file:
            raise ConfigError(f"{folder / INDEX} says that {name} is in {file}, where it is not")
    if extra := sorted(entries.keys() - weight_map.keys()):
        raise ConfigError(f"{folder / INDEX} does not name {extra[0]} of {entries[extra[0]].file}")
    return entries


def _entries_of(path: Path) -> dict[str, Entry]:
    if not path.is_file():
        raise ConfigError(f"{path.parent}: {path.name} is missing")
    with path.open("rb") as file:
        header, start = _header(file, path)
    size = path.stat().st_size
    return {
        name: _entry(name, fields, path, start, size)
        for name, fields in header.items()
        if name != "__metadata__"
    }


def _header(file: IO[bytes], path: Path) -> tuple[dict[str, Any], int]:
    length = int.from_bytes(file.read(8), "little")
    try:
        if length > _MAX_HEADER_BYTES:
            raise ValueError(f"a header of {length} bytes")
        header = json.loads(file.read(length))
    except ValueError as error:
        raise ConfigError(f"{path} is not a safetensors file: {error}") from error
    if not isinstance(header, dict):
        raise ConfigError(f"{path} is not a safetensors file: its header is no object")
    return header, 8 + length


def _entry(name: str, fields: Mapping[str, Any], path: Path, start: int, size: int) -> Entry:
    dtype, shape, (begin, end) = fields["dtype"], tuple(fields["shape"]), fields["data_offsets"]
    if dtype not in DTYPES:
        raise ConfigError(f"{path}: {name} is stored as {dtype}; known are {', '.join(DTYPES)}")
    if start + end > size:
        raise ConfigError(f"{path} is cut off: {name} should end at byte {start + end} of {size}")
    if end - begin != math.prod(shape) * DTYPES[dtype].itemsize:
        raise ConfigError(f"{path}: {name} has {end - begin} bytes, which is not {list(shape)}")
    return Entry(file=path, dtype=dtype, shape=shape, begin=start + begin)
