"""A warm server that is killed while nothing runs in it."""

import os
import signal

import pytest

from cispo.errors import SandboxUnavailableError
from sandboxes.base import Limits, Outcome, Program
from sandboxes.bubblewrap import BubblewrapSandbox
from sandboxes.warm import WarmSandbox
from tests.waiting import until

LIMITS = Limits(
    cpu_seconds=20.0, wall_seconds=120.0, memory_bytes=2**28, max_processes=16, output_bytes=2**16
)
PROGRAM = Program(argv=("python3", "-I", "-S", "-c", "print(1)"))


async def test_servers_that_were_killed_while_idle_cost_no_program() -> None:
    try:
        jails = BubblewrapSandbox()
    except SandboxUnavailableError as error:
        pytest.skip(f"NO SANDBOX ON THIS MACHINE, warm servers are untested: {error}")
    warm = WarmSandbox(jails, num_servers=1)
    assert (await warm.run(PROGRAM, LIMITS)).stdout == b"1\n"
    ((server, _),) = warm._idle
    os.kill(server._process.init_pid, signal.SIGKILL)
    await until(lambda: server.is_gone, what="the jail ends")
    result = await warm.run(PROGRAM, LIMITS)
    assert (result.outcome, result.stdout) == (Outcome.EXITED, b"1\n")
    assert warm._idle[0][0] is not server
    await warm.close()
