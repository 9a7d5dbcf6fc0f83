"""The processes of hostile programs: how many, how long, and what is left of them."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sandboxes.base import ExecResult, Limits, Outcome, Program
from sandboxes.bubblewrap import NO_CGROUPS, BubblewrapSandbox
from sandboxes.cgroups import find_cgroups
from sandboxes.interpreter import others_can_reach
from sandboxes.launcher import find_bwrap
from tests.waiting import PATIENCE_SECONDS, until, wait_until

Attack = Callable[..., Awaitable[ExecResult]]


async def test_a_fork_bomb_stays_small(attack: Attack, limits: Limits) -> None:
    code = "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass"
    short = replace(limits, cpu_seconds=1.0, wall_seconds=20.0)
    running = asyncio.create_task(attack(code, short))
    most = 0
    while not running.done():
        await asyncio.sleep(0.1)
        most = max(most, _count_jailed(os.getpid()))
    assert (await running).outcome is Outcome.TIMED_OUT
    assert most <= limits.max_processes + 3  # and the two processes of bubblewrap


async def test_memory_is_counted_over_all_processes(attack: Attack) -> None:
    if find_cgroups() is None:
        pytest.skip("NO CONTROL GROUPS HERE: memory is only limited per process")
    code = (
        "import os, time\nfor _ in range(4):\n  if os.fork() == 0:\n"
        "    x = bytearray(b'x') * (100 * 2**20); time.sleep(600); os._exit(0)\n"
        "os.wait()"
    )
    assert (await attack(code)).outcome is Outcome.OUT_OF_MEMORY


async def test_a_survivor_in_the_background_neither_delays_nor_outlives(
    attack: Attack,
) -> None:
    code = (
        "import os, signal, time\nif os.fork() == 0:\n  os.setsid()\n"
        "  for s in range(1, 65):\n    try: signal.signal(s, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\n  time.sleep(600)\nprint('done')"
    )
    result = await attack(code)
    assert (result.outcome, result.stdout) == (Outcome.EXITED, b"done\n")
    await until(lambda: _count_jailed(os.getpid()) == 0, what="the survivor dies")


async def test_killing_everything_in_reach_harms_only_itself(attack: Attack) -> None:
    result = await attack("import os; os.kill(-1, 9); os.kill(os.getppid(), 9); print(1)")
    assert result.outcome is Outcome.EXITED
    assert (await attack("print('next')")).stdout == b"next\n"


async def test_corrupting_process_one_makes_no_run_hang(attack: Attack, limits: Limits) -> None:
    code = (
        "import os, re\nfor line in open('/proc/1/maps'):\n"
        "  if ' rw' in line:\n    low, high = (int(x, 16) for x in line.split()[0].split('-'))\n"
        "    try:\n      m = open('/proc/1/mem', 'r+b', 0)\n"
        "      m.seek(low); m.write(bytes(high - low))\n"
        "    except OSError: pass\nprint('survived')"
    )
    async with asyncio.timeout(PATIENCE_SECONDS):
        await attack(code, replace(limits, wall_seconds=10.0))


async def test_a_jail_that_is_killed_from_outside_is_lost(attack: Attack) -> None:
    running = asyncio.create_task(attack("import time; time.sleep(600)"))
    await until(lambda: _is_python_below(os.getpid()), what="the program runs")
    for pid in _children(os.getpid()):
        if b"bwrap" in _command(pid):
            os.kill(pid, signal.SIGKILL)
    result = await running
    assert (result.outcome, result.exit_code) == (Outcome.LOST, None)


WORKER = """
import asyncio
from pathlib import Path
from sandboxes.base import Limits, Program
from sandboxes.bubblewrap import BubblewrapSandbox
limits = Limits(
    cpu_seconds=60, wall_seconds=600, memory_bytes=2**28, max_processes=8, output_bytes=9
)
program = Program(argv=("python3", "-c", "import time; time.sleep(600)"))
asyncio.run(BubblewrapSandbox(bwrap=Path({bwrap!r})).run(program, limits))
"""


def test_a_worker_that_is_killed_leaves_no_program_and_no_control_group(
    sandbox: BubblewrapSandbox,
) -> None:
    code = WORKER.format(bwrap=str(find_bwrap()))
    worker = subprocess.Popen([sys.executable, "-c", code], env={"PYTHONPATH": os.getcwd()})
    wait_until(lambda: _is_python_below(worker.pid), what="the worker's program runs")
    jailed = _descendants(worker.pid)
    groups = _groups_of(worker.pid)
    worker.kill()
    worker.wait()
    wait_until(
        lambda: not any(Path(f"/proc/{pid}").exists() for pid in jailed),
        what="its processes end with it",
    )
    if (cgroups := find_cgroups()) is not None:
        assert groups
        cgroups.reap()
        assert not any(folder.exists() for folder in groups)


def _groups_of(pid: int) -> set[Path]:
    """Return the control groups that a process has made for its jails."""
    cgroups = find_cgroups()
    parents = set(cgroups.parents.values()) if cgroups is not None else set()
    return {folder for parent in parents for folder in parent.glob(f"cispo-jail-*.{pid}.*")}


def test_it_works_as_an_ordinary_user(sandbox: BubblewrapSandbox) -> None:
    if os.geteuid() != 0:
        pytest.skip("all other tests have shown it: this is an ordinary user")
    python = Path("/usr/bin/python3")
    if not python.exists() or not others_can_reach(Path.cwd()):
        pytest.skip("an ordinary user can reach neither a Python nor this repository")
    code = WORKER.format(bwrap=str(find_bwrap())).rpartition("asyncio.run")[0] + (
        f"print(asyncio.run(BubblewrapSandbox(bwrap=Path({str(find_bwrap())!r})).probe()))"
    )
    ended = subprocess.run(
        [python, "-c", code],
        user=12345,
        group=12345,
        extra_groups=[],
        env={"PYTHONPATH": os.getcwd(), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert "user namespace only" in ended.stdout, ended.stderr


async def test_without_control_groups_a_process_is_limited_in_memory(limits: Limits) -> None:
    code = "x = bytearray(2**29); print('GOT THROUGH')"
    program = Program(argv=("python3", "-I", "-S", "-c", code))
    result = await BubblewrapSandbox(cgroups=NO_CGROUPS).run(program, limits)
    assert b"MemoryError" in result.stderr


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += map(int, children.read_text().split())
        except OSError:
            continue
    return found


def _descendants(pid: int) -> list[int]:
    return [d for child in _children(pid) for d in (child, *_descendants(child))]


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _is_python_below(pid: int) -> bool:
    """Whether a jail's program has been started; until then there is only its launcher."""
    return any(_command(found).startswith(b"python3\0") for found in _descendants(pid))


def _count_jailed(pid: int) -> int:
    """Processes below the launchers that `pid` has started."""
    roots = [child for child in _children(pid) if b"bwrap" in _command(child)]
    return sum(1 + len(_descendants(root)) for root in roots)
