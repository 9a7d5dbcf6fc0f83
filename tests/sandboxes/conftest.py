"""The jail that attacks are tried in, and what its processes look like from outside."""

from collections.abc import Awaitable, Callable

import pytest

from cispo.errors import SandboxUnavailableError
from sandboxes.base import ExecResult, Limits, Program
from sandboxes.bubblewrap import BubblewrapSandbox

Attack = Callable[..., Awaitable[ExecResult]]


@pytest.fixture(scope="session")
def sandbox() -> BubblewrapSandbox:
    try:
        return BubblewrapSandbox()
    except SandboxUnavailableError as error:
        pytest.skip(f"NO SANDBOX ON THIS MACHINE, security is untested: {error}")


@pytest.fixture
def limits() -> Limits:
    return Limits(
        cpu_seconds=5.0,
        wall_seconds=60.0,
        memory_bytes=192 * 2**20,
        max_processes=16,
        output_bytes=65536,
        tmp_bytes=4 * 2**20,
    )


@pytest.fixture
def attack(sandbox: BubblewrapSandbox, limits: Limits) -> Attack:
    """Run Python code in a jail."""

    async def run(code: str, within: Limits = limits) -> ExecResult:
        return await sandbox.run(Program(argv=("python3", "-I", "-S", "-c", code)), within)

    return run
