"""A program that lets all others go first is not one that this machine starved."""

import subprocess
import sys

import pytest

from sandboxes.processor_time import was_starved
from tests.waiting import wait_until

_LOOP = "print('ready', flush=True)\nwhile True: pass"


def is_starved_of_a_moment(pid: int) -> bool:
    """Whether it has ever waited, of an allowance that nothing could use up."""
    return was_starved([pid], wall_seconds=1e-9, cpus=1e15)


@pytest.mark.parametrize(
    ("own_doing", "may_count"),
    [
        ("pass", True),
        ("os.nice(19)", False),
        ("os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))", False),
        ("os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))", False),
    ],
)
def test_only_waiting_that_it_did_not_ask_for_counts(own_doing: str, may_count: bool) -> None:
    code = f"import os\n{own_doing}\n{_LOOP}"
    with subprocess.Popen(
        [sys.executable, "-S", "-c", code], stdout=subprocess.PIPE, text=True
    ) as program:
        try:
            assert program.stdout is not None
            assert program.stdout.readline() == "ready\n"
            if may_count:
                wait_until(
                    lambda: is_starved_of_a_moment(program.pid), what="it waits for a processor"
                )
            else:
                assert not is_starved_of_a_moment(program.pid)
        finally:
            program.kill()
