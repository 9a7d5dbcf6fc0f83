"""Warm servers: they are replaced in time, and evaluating is like starting Python."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from cispo.errors import SandboxUnavailableError
from sandboxes.base import ExecResult, Limits, Outcome, Program
from sandboxes.bubblewrap import NO_CGROUPS, BubblewrapSandbox
from sandboxes.cgroups import Leaf
from sandboxes.interpreter import Interpreter
from sandboxes.packages import package_mounts
from sandboxes.warm import WarmSandbox
from tests.sandboxes.hostile.host import processes_named
from tests.waiting import until

LIMITS = Limits(
    cpu_seconds=5.0,
    wall_seconds=60.0,
    memory_bytes=256 * 2**20,
    max_processes=16,
    output_bytes=65536,
    tmp_bytes=2**20,
)
SYSTEM_PYTHON = Path("/usr/bin/python3")


@pytest.fixture
async def warm(sandbox: BubblewrapSandbox) -> AsyncIterator[WarmSandbox]:
    warm = WarmSandbox(sandbox, num_servers=1, runs_per_server=3)
    yield warm
    await warm.close()


def python(*words: str, **given: object) -> Program:
    return Program(argv=("python3", "-I", "-S", *words), **given)  # type: ignore[arg-type]


async def run(sandbox: WarmSandbox, code: str, limits: Limits = LIMITS) -> ExecResult:
    return await sandbox.run(python("-c", code), limits)


def server_of(warm: WarmSandbox) -> object:
    return warm._idle[-1][0] if warm._idle else None


ENDINGS = {
    "nothing": "",
    "a number": "import sys; sys.exit(7)",
    "a large number": "import sys; sys.exit(-1)",
    "words": "import sys; sys.exit('words')",
    "none": "raise SystemExit",
    "an error": "def f():\n    1 / 0\nf()",
    "an error in an error": "try:\n    1 / 0\nexcept ZeroDivisionError:\n    {}['x']",
    "no syntax": "x = = 1",
    "a signal": "import os; os.kill(os.getpid(), 11)",
    "abort": "import os; os.abort()",
    "an exit of the system": "import os; print('lost in a buffer', end=''); os._exit(3)",
    "at exit": "import atexit, sys; atexit.register(print, 'bye'); print('first'); sys.exit(2)",
    "a thread": "import threading, time\n"
    "threading.Thread(target=lambda: (time.sleep(0.05), print('thread'))).start()",
    "a generator": "def g():\n  try: yield\n  finally: print('closed')\nx = g(); next(x)",
    "an open file": "f = open('/dev/null', 'w'); f.write('y')",
    "its names": "print(__name__, sorted(n for n in dir() if n != '__loader__' "
    "and n != '__spec__' and n != '__doc__' and n != '__package__'))",
    "its arguments": "import sys; print(sys.argv, sys.flags.isolated, sys.flags.no_site)",
    "no leftovers of ours": "import sys; print([m for m in sys.modules if 'sandboxes' in m])",
    "its streams": "import sys; print(sys.stdin.encoding, sys.stdout.errors, sys.stderr.errors, "
    "sys.stdout.line_buffering)",
    "pickling": "import pickle\nclass A: pass\nprint(type(pickle.loads(pickle.dumps(A()))))",
}


@pytest.mark.parametrize("name", list(ENDINGS))
async def test_evaluating_is_like_starting_python(warm: WarmSandbox, name: str) -> None:
    bare = start_python(ENDINGS[name])
    code = 128 - bare.returncode if bare.returncode < 0 else bare.returncode
    result = await run(warm, ENDINGS[name])
    assert (result.exit_code, result.stdout, result.stderr) == (code, bare.stdout, bare.stderr)


async def test_a_script_and_its_arguments_are_run(warm: WarmSandbox) -> None:
    script = b"import sys; print(sys.argv, __file__, __name__)"
    result = await warm.run(python("s.py", "a", files={"s.py": script}), LIMITS)
    assert result.stdout == b"['s.py', 'a'] s.py __main__\n"
    missing = await warm.run(python("none.py"), LIMITS)
    assert (missing.exit_code, missing.stderr[:24]) == (2, b"python3: can't open file")


async def test_other_commands_and_flags_start_a_process(warm: WarmSandbox) -> None:
    plain = Program(argv=("python3", "-c", "import sys; print(sys.flags.isolated)"))
    assert (await warm.run(plain, LIMITS)).stdout == b"0\n"
    shell = Program(argv=("sh", "-c", "yes | head -1; trap '' PIPE; echo $?"))
    assert (await warm.run(shell, LIMITS)).stdout == b"y\n0\n"
    assert (await warm.run(Program(argv=("no-such-command",)), LIMITS)).exit_code == 127


async def test_programs_draw_different_numbers(warm: WarmSandbox) -> None:
    code = "import random, os; print(random.random(), os.urandom(4))"
    assert (await run(warm, code)).stdout != (await run(warm, code)).stdout


async def test_a_server_is_replaced_after_its_number_of_programs(warm: WarmSandbox) -> None:
    first = None
    for number in range(1, 7):
        assert (await run(warm, "print(1)")).stdout == b"1\n"
        if number == 1:
            first = server_of(warm)
        assert (server_of(warm) is first) == (number < 3)
        assert (server_of(warm) is None) == (number % 3 == 0)


async def test_a_cancelled_program_costs_its_server_and_no_other_program(
    warm: WarmSandbox,
) -> None:
    await run(warm, "")
    running = asyncio.create_task(run(warm, "import time; time.sleep(600)"))
    await until(lambda: bool(ours("cispo-program")), what="the program runs")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert server_of(warm) is None
    assert (await run(warm, "print(2)")).stdout == b"2\n"


async def test_a_server_that_is_killed_loses_its_program_and_is_replaced(
    warm: WarmSandbox,
) -> None:
    await run(warm, "")
    running = asyncio.create_task(run(warm, "import time; time.sleep(600)"))
    await until(lambda: bool(ours("cispo-program")), what="the program runs")
    for server in ours("cispo-server"):
        os.kill(server, signal.SIGKILL)
    assert (await running).outcome is Outcome.LOST
    assert (await run(warm, "print(2)")).stdout == b"2\n"


async def test_limits_may_change_from_program_to_program(warm: WarmSandbox) -> None:
    code = "x = bytearray(b'x') * (100 << 20); print('fits')"
    assert (await run(warm, code)).stdout == b"fits\n"
    small = await run(warm, code, replace(LIMITS, memory_bytes=64 * 2**20))
    assert small.outcome is Outcome.OUT_OF_MEMORY or b"MemoryError" in small.stderr
    assert (await run(warm, code)).stdout == b"fits\n"


async def test_no_server_and_no_group_is_left_after_closing(sandbox: BubblewrapSandbox) -> None:
    warm = WarmSandbox(sandbox, num_servers=2)
    await asyncio.gather(run(warm, "print(1)"), run(warm, "print(1)"))
    servers = [server for server, _ in warm._idle]
    assert len(servers) == 2
    await warm.close()
    for server in servers:
        assert server._process.is_reaped
        leaf = server._leaf
        assert leaf is None or not any(folder.exists() for folder in leaf.folders.values())


async def test_a_package_is_there_when_it_is_preloaded() -> None:
    try:
        warm = WarmSandbox(BubblewrapSandbox(), num_servers=1, preload=["numpy"])
    except SandboxUnavailableError as error:
        pytest.skip(f"NO PACKAGES FOR JAILS ON THIS MACHINE: {error}")
    try:
        code = (
            "import sys\nprint('numpy' in sys.modules)\nimport numpy; print(numpy.arange(4).sum())"
        )
        assert (await run(warm, code)).stdout == b"True\n6\n"
        draws = "import numpy; print(numpy.random.rand())"
        assert (await run(warm, draws)).stdout != (await run(warm, draws)).stdout
    finally:
        await warm.close()


def test_a_package_that_jails_cannot_have_is_refused() -> None:
    python = Interpreter(folder=str(Path(sys.base_prefix, "bin")), prefix=None)
    with pytest.raises(SandboxUnavailableError, match="pip install no-such-package"):
        package_mounts(["no-such-package"], python=python)


async def test_without_control_groups_programs_are_still_counted_one_by_one() -> None:
    try:
        warm = WarmSandbox(BubblewrapSandbox(cgroups=NO_CGROUPS), num_servers=1)
    except SandboxUnavailableError as error:
        pytest.skip(f"NO SANDBOX ON THIS MACHINE, security is untested: {error}")
    spin = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    try:
        first, second = await run(warm, spin), await run(warm, "pass")
        assert first.cpu_seconds < 5.0
        assert second.cpu_seconds < 0.2
    finally:
        await warm.close()


def start_python(code: str) -> "subprocess.CompletedProcess[bytes]":
    if not SYSTEM_PYTHON.exists():
        pytest.skip("there is no system Python to compare with")
    return subprocess.run(
        [SYSTEM_PYTHON, "-I", "-S", "-c", code],
        capture_output=True,
        env={"LANG": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        check=False,
    )


def ours(name: str) -> list[int]:
    """Return the processes of this name that this one has started, itself or through others."""
    return [pid for pid in processes_named(name) if os.getpid() in ancestors(pid)]


def ancestors(pid: int) -> set[int]:
    found = set()
    while pid > 1:
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            break
        found.add(pid)
    return found


async def test_a_server_in_whose_group_a_program_left_memory_is_replaced(
    warm: WarmSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    await run(warm, "")
    leaf = server_of(warm)._leaf  # type: ignore[attr-defined]
    if leaf is None:
        pytest.skip("NO CONTROL GROUPS HERE: nobody knows what is left in them")
    left = leaf.used_bytes() + LIMITS.memory_bytes // 2
    monkeypatch.setattr(Leaf, "used_bytes", lambda _: left)
    await run(warm, "")
    assert server_of(warm) is None
