"""Telling a starved program from a sleeping one, on real processes."""

import os
import subprocess
import sys
import time

from sandboxes.processor_time import tree_cpu_seconds, was_starved

BUSY = "while True: pass"
ASLEEP = "import time; time.sleep(60)"


def measure(code: str, *, seconds: float, rivals: int = 0) -> tuple[bool, float]:
    """Whether the program counts as starved, and the CPU time of its tree; all share one CPU."""
    cpu = next(iter(os.sched_getaffinity(0)))

    def start(source: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            ["taskset", "--cpu-list", str(cpu), sys.executable, "-S", "-c", source]
        )

    others = [start(BUSY) for _ in range(rivals)]
    program = start(code)
    try:
        time.sleep(seconds)
        starved = was_starved([program.pid], wall_seconds=seconds, cpus=1.0)
        return starved, tree_cpu_seconds([program.pid])
    finally:
        for process in (*others, program):
            process.kill()
            process.wait()


def test_a_sleeping_program_is_not_starved_even_on_a_busy_machine() -> None:
    starved, used = measure(ASLEEP, seconds=1.0, rivals=3)
    assert not starved
    assert used < 0.5


def test_a_ready_program_among_many_is_starved() -> None:
    starved, used = measure(BUSY, seconds=2.0, rivals=6)
    assert starved
    assert used < 1.0


def test_the_time_of_a_tree_holds_that_of_its_children() -> None:
    # the child ends by itself: nothing in this test kills a grandchild
    code = (
        "import os, time\nend = time.monotonic() + 5\nif os.fork() == 0:\n"
        "  while time.monotonic() < end: pass\nelse:\n  time.sleep(60)"
    )
    _, used = measure(code, seconds=2.0)
    assert used > 0.1


def test_a_process_that_is_gone_used_nothing() -> None:
    ended = subprocess.Popen([sys.executable, "-S", "-c", ""])
    ended.wait()
    assert tree_cpu_seconds([ended.pid]) == 0.0
    assert not was_starved([ended.pid], wall_seconds=1.0, cpus=1.0)
