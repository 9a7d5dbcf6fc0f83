"""What every sandbox must do: each outcome, and no more than that for any program."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest
from aiohttp import web

from cispo.errors import SandboxUnavailableError
from sandboxes.base import ExecResult, Limits, Outcome, Program, Sandbox
from sandboxes.bubblewrap import NO_CGROUPS, BubblewrapSandbox
from sandboxes.container import ContainerSandbox
from sandboxes.remote import RemoteSandbox
from sandboxes.service import make_service
from sandboxes.warm import WarmSandbox
from tests.images import NoImageError, python_image
from tests.sandboxes.hostile.host import processes_named
from tests.waiting import until

LIMITS = Limits(
    cpu_seconds=2.0,
    wall_seconds=60.0,
    memory_bytes=256 * 2**20,
    max_processes=16,
    output_bytes=65536,
    tmp_bytes=4 * 2**20,
)
TOKEN = "a token for these tests only"
SANDBOXES: dict[str, Callable[[], object]] = {
    "bubblewrap": BubblewrapSandbox,
    "bubblewrap without control groups": lambda: BubblewrapSandbox(cgroups=NO_CGROUPS),
    "warm": lambda: WarmSandbox(BubblewrapSandbox(), num_servers=8),
    "warm without control groups": lambda: WarmSandbox(
        BubblewrapSandbox(cgroups=NO_CGROUPS), num_servers=8
    ),
    "container": lambda: container(),
    "remote": lambda: Loopback(WarmSandbox(BubblewrapSandbox(), num_servers=8)),
}


def container() -> Sandbox:
    kind, image = python_image()
    return ContainerSandbox(image, engine=kind)


class Loopback:
    """The remote backend with its service in the same process."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Sandbox:
        service = make_service(self._sandbox, token=TOKEN, max_concurrent=8)
        self._runner = web.AppRunner(service, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        port = self._runner.addresses[0][1]
        return RemoteSandbox(f"http://127.0.0.1:{port}", token=TOKEN)

    async def __aexit__(self, *_: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()
        await self._sandbox.close()


@pytest.fixture(params=list(SANDBOXES))
async def sandbox(request: pytest.FixtureRequest) -> AsyncIterator[Sandbox]:
    try:
        sandbox = SANDBOXES[request.param]()
    except (SandboxUnavailableError, NoImageError) as error:
        pytest.skip(f"NO SANDBOX ON THIS MACHINE, security is untested: {error}")
    async with AsyncExitStack() as stack:
        if isinstance(sandbox, Loopback):
            sandbox = await stack.enter_async_context(sandbox)
        yield sandbox
        await sandbox.close()


def python(code: str, **given: object) -> Program:
    return Program(argv=("python3", "-I", "-S", "-c", code), **given)  # type: ignore[arg-type]


async def run(sandbox: Sandbox, code: str, limits: Limits = LIMITS) -> ExecResult:
    return await sandbox.run(python(code), limits)


async def test_the_probe_names_layers(sandbox: Sandbox) -> None:
    layers = await sandbox.probe()
    assert "seccomp" in layers
    assert "namespaces" in layers


async def test_a_program_that_ends_tells_its_exit_code_and_output(sandbox: Sandbox) -> None:
    result = await run(
        sandbox, "import sys; print('out'); print('err', file=sys.stderr); sys.exit(3)"
    )
    assert (result.outcome, result.exit_code) == (Outcome.EXITED, 3)
    assert (result.stdout, result.stderr) == (b"out\n", b"err\n")
    assert 0.0 <= result.cpu_seconds < 2.0
    assert 0.0 < result.wall_seconds < 60.0


async def test_a_program_that_dies_of_a_signal_has_exited(sandbox: Sandbox) -> None:
    result = await run(sandbox, "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert (result.outcome, result.exit_code) == (Outcome.EXITED, 139)


async def test_a_program_reads_its_standard_input_and_its_files(sandbox: Sandbox) -> None:
    code = (
        "import sys\n"
        "print(sys.stdin.read() + open('given/name').read() + open('/dev/stdin').read())"
    )
    program = python(code, stdin=b"a" * 100_000, files={"given/name": b"content"})
    result = await sandbox.run(program, replace(LIMITS, output_bytes=2**20))
    assert result.stdout == b"a" * 100_000 + b"content" + b"a" * 100_000 + b"\n"


async def test_bytes_that_are_no_text_come_back_unchanged(sandbox: Sandbox) -> None:
    result = await run(sandbox, r"import sys; sys.stdout.buffer.write(b'\xff\x00\xfe')")
    assert result.stdout == b"\xff\x00\xfe"


async def test_an_endless_loop_is_stopped_by_its_cpu_time(sandbox: Sandbox) -> None:
    result = await run(sandbox, "while True: pass", replace(LIMITS, cpu_seconds=1.0))
    assert (result.outcome, result.exit_code) == (Outcome.TIMED_OUT, None)


async def test_processes_share_one_budget_of_cpu_time(sandbox: Sandbox) -> None:
    code = "import os\nfor _ in range(3): os.fork()\nwhile True: pass"
    result = await run(sandbox, code, replace(LIMITS, cpu_seconds=1.0))
    assert result.outcome is Outcome.TIMED_OUT
    assert result.cpu_seconds < 4.0


async def test_a_sleeping_program_times_out_and_is_not_called_lost(sandbox: Sandbox) -> None:
    result = await run(sandbox, "import time; time.sleep(600)", replace(LIMITS, wall_seconds=1.0))
    assert result.outcome is Outcome.TIMED_OUT
    assert result.cpu_seconds < 1.0


async def test_output_before_a_timeout_is_kept(sandbox: Sandbox) -> None:
    code = "import time; print('first', flush=True); time.sleep(600)"
    result = await run(sandbox, code, replace(LIMITS, wall_seconds=2.0))
    assert (result.outcome, result.stdout) == (Outcome.TIMED_OUT, b"first\n")


@pytest.mark.parametrize("stream", [1, 2])
async def test_a_flood_of_output_is_cut(sandbox: Sandbox, stream: int) -> None:
    code = f"import os\nwhile True: os.write({stream}, bytes(65536))"
    result = await run(sandbox, code)
    assert result.outcome is Outcome.OUTPUT_LIMIT
    assert len((result.stdout, result.stderr)[stream - 1]) == LIMITS.output_bytes


async def test_output_of_exactly_the_limit_is_no_flood(sandbox: Sandbox) -> None:
    result = await run(sandbox, "import os; os.write(1, bytes(65536))")
    assert (result.outcome, len(result.stdout)) == (Outcome.EXITED, 65536)


async def test_too_much_memory_in_one_process_is_refused_or_killed(sandbox: Sandbox) -> None:
    result = await run(sandbox, "x = bytearray(2**30); print('got it')")
    assert result.outcome is Outcome.OUT_OF_MEMORY or b"MemoryError" in result.stderr
    assert result.stdout == b""


async def test_a_command_that_does_not_exist_is_no_success(sandbox: Sandbox) -> None:
    result = await sandbox.run(Program(argv=("no-such-command",)), LIMITS)
    assert result.exit_code != 0


async def test_runs_share_nothing(sandbox: Sandbox) -> None:
    await run(sandbox, "for f in ('/tmp/x', '/dev/shm/x'): open(f, 'w').write('left')")
    result = await run(sandbox, "import os; print(os.listdir('/tmp'), os.listdir('/dev/shm'))")
    assert result.stdout == b"[] []\n"


async def test_the_environment_holds_what_was_named_and_no_more(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_KEY", "the secret")
    result = await run(
        sandbox, "import os; print(*sorted(set(os.environ) - {'PWD', 'LD_LIBRARY_PATH'}))"
    )
    assert result.stdout.split() == [
        b"HOME",
        b"LANG",
        b"PATH",
        b"PYTHONDONTWRITEBYTECODE",
        b"PYTHONHASHSEED",
        b"TZ",
    ]


async def test_a_program_sees_few_processes_and_none_of_the_machine(sandbox: Sandbox) -> None:
    code = "import os; print(sum(name.isdigit() for name in os.listdir('/proc')))"
    assert int((await run(sandbox, code)).stdout) <= 2  # process 1 and itself


async def test_a_program_cannot_have_its_failure_counted_as_ours(sandbox: Sandbox) -> None:
    code = "import sys; print('sandbox: setns: refused', file=sys.stderr); sys.exit(125)"
    result = await run(sandbox, code)
    assert (result.outcome, result.exit_code) == (Outcome.EXITED, 125)


async def test_many_programs_run_at_once(sandbox: Sandbox) -> None:
    results = await asyncio.gather(*(run(sandbox, f"print({n} * {n})") for n in range(8)))
    assert [int(result.stdout) for result in results] == [n * n for n in range(8)]


async def test_cancelling_kills_the_program(sandbox: Sandbox) -> None:
    code = (
        "import ctypes, time\nctypes.CDLL(None).prctl(15, b'cancelled-marks', 0, 0, 0)\n"
        "time.sleep(600)"
    )
    running = asyncio.create_task(run(sandbox, code))
    await until(lambda: bool(processes_named("cancelled-marks")), what="the program runs")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await until(lambda: not processes_named("cancelled-marks"), what="the program ends")


@pytest.mark.parametrize("name", ["/absolute", "../outside", "a/../../b", ""])
def test_files_cannot_be_placed_outside_the_work_folder(name: str) -> None:
    with pytest.raises(ValueError, match="does not stay"):
        Program(argv=("true",), files={name: b""})


def test_a_limit_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="cpu_seconds"):
        replace(LIMITS, cpu_seconds=0.0)
