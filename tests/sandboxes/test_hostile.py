"""Every hostile attempt against every sandbox: what the host sees must be as if it had not been.

The suite runs once for each sandbox, here and as a user without rights. What cannot hold without
control groups is bounded instead: memory by `memory_bytes` times `max_processes`, and the share of
the processors by the time limits alone.
"""

import asyncio
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from cispo.errors import SandboxUnavailableError
from sandboxes.base import ExecResult, Limits, Outcome, Program
from sandboxes.cgroups import find_cgroups
from sandboxes.interpreter import others_can_reach
from sandboxes.jail_command import SANDBOX_UID
from sandboxes.launcher import find_bwrap
from tests.images import NoImageError
from tests.sandboxes.hostile.host import SHARED_KEY
from tests.sandboxes.hostile.runner import ATTEMPTS, Suite, run_suite

ROOT = Path(__file__).parents[2]
PYTHON = Path("/usr/bin/python3")
STRANGER = 12345
Findings = dict[str, list[str]]


def as_this_user(kind: str) -> Findings:
    if "without" not in kind and "container" not in kind and find_cgroups() is None:
        pytest.skip("NO CONTROL GROUPS HERE: limits on all processes together are untested")
    try:
        return asyncio.run(run_suite(kind))
    except (SandboxUnavailableError, NoImageError) as error:
        pytest.skip(f"NO SANDBOX ON THIS MACHINE, security is untested: {error}")


def as_a_stranger(kind: str) -> Findings:
    """Run the suite as a user without rights, which this one is already if it is not root."""
    if os.geteuid() != 0:
        return as_this_user(kind)
    if not PYTHON.exists() or not others_can_reach(ROOT):
        pytest.skip("AN ORDINARY USER CAN REACH NEITHER A PYTHON NOR THIS REPOSITORY: untested")
    try:
        bwrap = find_bwrap()
    except SandboxUnavailableError as error:
        pytest.skip(f"NO SANDBOX ON THIS MACHINE, security is untested: {error}")
    ended = subprocess.run(
        [PYTHON, "-m", "tests.sandboxes.hostile.runner", kind, str(bwrap)],
        user=STRANGER,
        group=STRANGER,
        extra_groups=[],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    findings: Findings = json.loads(ended.stdout)
    return findings


SUITES: dict[str, Callable[[], Findings]] = {
    "bubblewrap": lambda: as_this_user("bubblewrap"),
    "warm": lambda: as_this_user("warm"),
    "bubblewrap, user without rights": lambda: as_a_stranger("bubblewrap without control groups"),
    "warm, user without rights": lambda: as_a_stranger("warm without control groups"),
    "container": lambda: as_this_user("container"),
}


@pytest.fixture(scope="module", params=list(SUITES))
def findings(request: pytest.FixtureRequest) -> Findings:
    """Run a suite, once, also if it fails."""
    return SUITES[request.param]()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["nothing", *(attempt.name for attempt in ATTEMPTS)])
def test_the_host_sees_nothing_of_it(findings: Findings, name: str) -> None:
    if name not in findings:
        pytest.skip("the attempt uses x86_64 system call numbers")
    assert findings[name] == []


def test_there_are_enough_attempts_of_each_kind() -> None:
    kinds = [attempt.kind for attempt in ATTEMPTS]
    assert len(ATTEMPTS) == len({attempt.name for attempt in ATTEMPTS})
    assert len(ATTEMPTS) >= 60
    assert {kind: kinds.count(kind) >= 10 for kind in set(kinds)} == dict.fromkeys(
        ("escape", "theft", "bomb", "survivor", "protocol"), True
    )


class Bare:
    """What a reward function does that knows no sandbox: a subprocess with a timeout."""

    async def run(self, program: Program, limits: Limits) -> ExecResult:
        process = await asyncio.create_subprocess_exec(
            PYTHON,
            *program.argv[1:],
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            close_fds=False,
            cwd="/",
            user=SANDBOX_UID if os.geteuid() == 0 else None,
        )
        stdout, stderr = b"", b""
        try:
            async with asyncio.timeout(limits.wall_seconds):
                stdout, stderr = await process.communicate()
        except TimeoutError:
            process.kill()
        return ExecResult(
            outcome=Outcome.EXITED,
            exit_code=process.returncode,
            stdout=stdout,
            stderr=stderr,
            cpu_seconds=0.0,
            wall_seconds=0.0,
        )

    async def probe(self) -> tuple[str, ...]:
        return ()

    async def close(self) -> None:
        return


SUCCEED_WITHOUT_A_SANDBOX = (
    "tcp to the machine's loopback",
    "udp to the machine's address",
    "abstract unix socket",
    "unix socket by its path",
    "netlink to the audit log",
    "write to a folder that all may write",
    "user namespace",
    "a file by its path",
    "the environment",
    "every process's words",
    "open descriptors",
    "shared memory of the system",
    "a daemon",
    "debug a process of the machine",
    "kill a process of the machine",
)


@pytest.fixture(scope="module")
def bare_findings() -> Findings:
    if not PYTHON.exists() or os.uname().machine != "x86_64":
        pytest.skip("needs the system's Python on x86_64")
    uid = SANDBOX_UID if os.geteuid() == 0 else os.geteuid()
    suite = Suite(Bare(), has_cgroup=True, jail_uid=uid, num_lanes=1, silence_seconds=1.0)
    named = {attempt.name: attempt for attempt in ATTEMPTS}
    chosen = [named[name] for name in SUCCEED_WITHOUT_A_SANDBOX]
    findings = asyncio.run(suite.run(chosen, in_the_open=True))
    for letter in "MSQ":  # what the attempt on shared memory has left
        subprocess.run(["ipcrm", f"-{letter}", str(SHARED_KEY)], capture_output=True, check=False)
    return findings


@pytest.mark.parametrize("name", SUCCEED_WITHOUT_A_SANDBOX)
def test_the_host_sees_what_a_program_without_a_sandbox_does(
    bare_findings: Findings, name: str
) -> None:
    assert bare_findings[name] != []
