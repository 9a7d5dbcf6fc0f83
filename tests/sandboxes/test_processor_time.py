"""Telling a starved program from a sleeping one, on real processes."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from sandboxes.processor_time import tree_cpu_seconds, was_starved
from tests.waiting import wait_until

BUSY = "while True: pass"


@contextmanager
def started(code: str) -> Iterator[subprocess.Popen[str]]:
    """Start a program; all of them share one CPU."""
    cpu = next(iter(os.sched_getaffinity(0)))
    process = subprocess.Popen(
        ["taskset", "--cpu-list", str(cpu), sys.executable, "-S", "-c", code],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_sleeping_program_is_not_starved_even_on_a_busy_machine() -> None:
    began = time.monotonic()
    with ExitStack() as stack:
        code = "import time; print('asleep', flush=True); time.sleep(600)"
        program = stack.enter_context(started(code))
        assert program.stdout is not None
        assert program.stdout.readline() == "asleep\n"
        # its start may have waited for a processor all the time, but not the rest of its life
        seconds = max(1.0, 3 * (time.monotonic() - began))
        for _ in range(3):
            stack.enter_context(started(BUSY))
        time.sleep(seconds)
        wall_seconds = time.monotonic() - began
        assert not was_starved([program.pid], wall_seconds=wall_seconds, cpus=1.0)
        assert tree_cpu_seconds([program.pid]) < wall_seconds / 2


def test_a_ready_program_among_many_is_starved() -> None:
    with ExitStack() as stack:
        rivals = [stack.enter_context(started(BUSY)) for _ in range(6)]
        wait_until(
            lambda: all(tree_cpu_seconds([rival.pid]) > 0.1 for rival in rivals),
            what="the others are busy",
        )
        began = time.monotonic()
        program = stack.enter_context(started(BUSY))
        time.sleep(2.0)
        wall_seconds = time.monotonic() - began
        assert was_starved([program.pid], wall_seconds=wall_seconds, cpus=1.0)
        assert tree_cpu_seconds([program.pid]) < wall_seconds / 2


def test_the_time_of_a_tree_holds_that_of_its_children() -> None:
    # the child ends by itself: nothing in this test kills a grandchild
    code = (
        "import os, time\nif os.fork() == 0:\n"
        "  while time.process_time() < 1.0: pass\nelse:\n  time.sleep(600)"
    )
    with started(code) as program:
        wait_until(lambda: tree_cpu_seconds([program.pid]) > 0.9, what="the child's time counts")


def test_a_process_that_is_gone_used_nothing() -> None:
    ended = subprocess.Popen([sys.executable, "-S", "-c", ""])
    ended.wait()
    assert tree_cpu_seconds([ended.pid]) == 0.0
    assert not was_starved([ended.pid], wall_seconds=1.0, cpus=1.0)


@pytest.mark.parametrize(
    "look", [tree_cpu_seconds, lambda pids: was_starved(pids, wall_seconds=1.0, cpus=1.0)]
)
def test_a_process_may_end_while_it_is_looked_at(
    look: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    with started(BUSY) as program:
        listdir = os.listdir

        def end_and_list(path: str) -> list[str]:
            program.kill()
            program.wait()
            return listdir(path)

        monkeypatch.setattr(os, "listdir", end_and_list)
        look([program.pid])
