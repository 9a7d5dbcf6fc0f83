"""Tests that fork servers hold their memory in large pages, where the kernel can do it."""

import platform
import subprocess
import sys

import pytest

FIRST_KERNEL = (6, 1)
PROGRAM = """
from sandboxes.inside import kernel

def anonymous():
    with open("/proc/self/smaps_rollup") as file:
        sizes = dict(line.split(":") for line in file if ":" in line and "kB" in line)
    return int(sizes["AnonHugePages"].split()[0])

values = [bytes([number % 251]) * 4096 for number in range(10_000)]
before = anonymous()
kernel.use_large_pages()
assert all(value == bytes([number % 251]) * 4096 for number, value in enumerate(values))
print(anonymous() - before)
"""


def test_memory_moves_into_large_pages_and_keeps_its_contents() -> None:
    kernel = tuple(int(part) for part in platform.release().split(".")[:2])
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    if kernel < FIRST_KERNEL:
        pytest.skip(f"NOT RUN: Linux {kernel} has no MADV_COLLAPSE")
    assert int(done.stdout) > 20_000
