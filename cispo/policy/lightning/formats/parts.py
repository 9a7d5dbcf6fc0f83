"""Runs of numbers that are read a block at a time, so that no tensor has to fit in memory."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
}
"""Types of weights by their name in a safetensors file."""

DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}

BLOCK_BYTES = 2**24
"""Bytes that reading and writing hold at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A run of equal numbers somewhere, on disk or in memory.

    Attributes:
        dtype: A key of `DTYPES`.
        num_elements: How many numbers.
        blocks: Reads them, as one-dimensional tensors on the CPU of at most `BLOCK_BYTES`.
    """

    dtype: str
    num_elements: int
    blocks: Callable[[], Iterator[Tensor]]


def in_memory(tensor: Tensor) -> Part:
    """A tensor of a model as a run of numbers."""
    flat = tensor.detach().reshape(-1)
    step = BLOCK_BYTES // flat.element_size()
    return Part(
        dtype=DTYPE_NAMES[flat.dtype],
        num_elements=flat.numel(),
        blocks=lambda: (block.cpu() for block in torch.split(flat, step)),
    )
