"""What this machine can do at most: multiply-adds a second, and bytes a second by working set.

All on as many threads as torch has at the time.
"""

import time
from collections.abc import Callable

import torch

_REPEATS = 7


def best_seconds(work: Callable[[], object]) -> float:
    """Shortest of some runs, after one that is not counted."""
    work()
    seconds = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def gemm_flops(size: int = 1024) -> float:
    """Rate of torch's float32 product of square matrices, in operations a second."""
    a, b, c = (torch.randn(size, size) for _ in range(3))
    return 2 * size**3 / best_seconds(lambda: torch.mm(a, b, out=c))


def read_bytes(num_bytes: int) -> float:
    """Rate at which so many bytes are read again and again, in bytes a second."""
    x = torch.randn(num_bytes // 4)
    return x.nbytes / best_seconds(x.sum)


def update_bytes(num_bytes: int) -> float:
    """Rate at which so many bytes are scaled in place, read and written, in bytes a second."""
    x = torch.ones(num_bytes // 4)
    return 2 * x.nbytes / best_seconds(lambda: x.mul_(1.0))
