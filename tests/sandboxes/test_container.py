"""Containers: refusals name their layer, the dead are reaped, and reports cannot be forged."""

import asyncio
import os
import subprocess
import time
from pathlib import Path

import pytest

from cispo.errors import SandboxUnavailableError
from sandboxes.base import Limits, Outcome, Program
from sandboxes.box import _read_report
from sandboxes.container import ContainerSandbox
from sandboxes.engine import Engine, find_engine, refusal, run_command
from tests.images import NoImageError, python_image
from tests.sandboxes.hostile.host import processes_named
from tests.waiting import PATIENCE_SECONDS, until

LIMITS = Limits(
    cpu_seconds=5.0,
    wall_seconds=60.0,
    memory_bytes=2**28,
    max_processes=7,
    output_bytes=1000,
    tmp_bytes=2**30,
    cpus=0.5,
)


SLEEPER = (
    "import ctypes, time; ctypes.CDLL(None).prctl(15, b'container-test', 0, 0, 0); time.sleep(600)"
)


def engine(kind: str = "podman", runtime: str = "") -> Engine:
    return Engine(kind=kind, command=(kind,), runtime=runtime, owner="4026531836.12.99")


@pytest.fixture
def container() -> ContainerSandbox:
    try:
        kind, image = python_image()
    except NoImageError as error:
        pytest.skip(f"NO CONTAINERS ON THIS MACHINE, that backend is untested: {error}")
    return ContainerSandbox(image, engine=kind)


def fake_engine(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "podman"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


@pytest.mark.parametrize("kind", ["podman", "docker"])
def test_the_command_has_every_limit(kind: str) -> None:
    words = run_command(engine(kind), "image", ("python3", "-c", "x"), name="n", limits=LIMITS)
    text = " ".join(words)
    for expected in (
        "--network none",
        "--cap-drop ALL",
        "--security-opt no-new-privileges",
        "--read-only ",
        f"--memory {2**28} --memory-swap {2**28}",
        "--pids-limit 8",
        "--cpus 0.5",
        f"size={2**26},mode=1777",
        "--user 61000:61000",
        "--pull never image -c x",
    ):
        assert expected in text, expected


def test_a_machine_without_an_engine_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(SandboxUnavailableError, match="layer engine: no podman or docker"):
        find_engine("", runtime="")
    with pytest.raises(SandboxUnavailableError, match="no docker on"):
        find_engine("docker", runtime="")


@pytest.mark.parametrize(
    ("message", "layer"),
    [
        ("Error: OCI runtime error: crun: cgroups in hybrid mode not supported", "runtime"),
        ("Error: python:3.11: image not known", "image"),
        ("Cannot connect to the Docker daemon at unix:///var/run/docker.sock.", "daemon"),
        ("sandbox: [Errno 13] Permission denied: '/tmp/x'", "image"),
        ("executable file `python3` not found", "interpreter"),
    ],
)
def test_a_refusal_names_its_layer(message: str, layer: str) -> None:
    assert refusal(message, engine=engine(), image="i").startswith(f"sandbox layer {layer}: ")


async def test_an_engine_that_refuses_fails_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_engine(tmp_path, "echo 'Error: python: image not known' >&2; exit 125", monkeypatch)
    sandbox = ContainerSandbox("python", engine="podman")
    result = await sandbox.run(Program(argv=("true",)), LIMITS)
    assert result.outcome is Outcome.LOST
    with pytest.raises(SandboxUnavailableError, match="layer image: pull or build python"):
        await sandbox.probe()


async def test_an_engine_that_isolates_nothing_fails_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs the last words of its command line in the open."""
    script = (
        'case "$1" in ps|rm) exit 0;; esac\n'
        'while [ "$1" != run ] && [ $# -gt 0 ]; do shift; done\n'
        'while [ "$1" != image ] && [ $# -gt 0 ]; do shift; done\nshift\nexec python3 "$@"'
    )
    fake_engine(tmp_path, script, monkeypatch)
    with pytest.raises(SandboxUnavailableError):
        await ContainerSandbox("image", engine="podman").probe()


def test_containers_of_dead_workers_are_known_by_their_name() -> None:
    mine = find_engine_owner()
    assert not mine.is_orphan(mine.container_name(3))
    namespace = mine.owner.split(".")[0]
    assert mine.is_orphan(f"cispo-box-{namespace}.{2**22 + 1}.5-3")
    assert not mine.is_orphan("cispo-box-1.2.3-4")  # of another container's processes
    assert not mine.is_orphan("somebody-elses")


def find_engine_owner() -> Engine:
    from sandboxes.cgroups import owner_name

    return Engine(kind="podman", command=(), runtime="", owner=owner_name(os.getpid()))


@pytest.mark.parametrize(
    ("report", "outcome", "exit_code"),
    [
        (b"ended 3 1500000 0   ", Outcome.EXITED, 3),
        (b"ended 137 0 1", Outcome.OUT_OF_MEMORY, None),
        (b"ended 152 0 0", Outcome.TIMED_OUT, None),
        (b"cpu 125 0 0", Outcome.TIMED_OUT, None),
        (b"wall 125 0 0", Outcome.TIMED_OUT, None),
        (b"starved 125 0 0", Outcome.LOST, None),
        (b"failed 125 0 0", Outcome.LOST, None),
        (b"output of a program", Outcome.LOST, None),
        (b"", Outcome.LOST, None),
    ],
)
def test_a_report_is_read(report: bytes, outcome: Outcome, exit_code: int | None) -> None:
    found, code, used = _read_report(report)
    assert (found, code) == (outcome, exit_code)
    assert used in (0.0, 1.5)


async def test_no_container_is_left_when_a_run_is_cancelled(container: ContainerSandbox) -> None:
    program = Program(argv=("python3", "-I", "-S", "-c", SLEEPER))
    running = asyncio.create_task(container.run(program, LIMITS))
    await until(lambda: bool(processes_named("container-test")), what="the program runs")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await container.close()
    assert await gone(container)
    assert not processes_named("container-test")


async def test_a_container_ends_with_its_worker(container: ContainerSandbox) -> None:
    """Its standard input closes, whatever else becomes of the engine's command."""
    words = container._command(container._engine.container_name(999), LIMITS)
    process = await asyncio.create_subprocess_exec(
        *words, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(container._request(Program(argv=("sleep", "600")), LIMITS))
    await process.stdout.read(1)
    process.kill()
    await process.wait()
    process.stdin.close()
    assert await gone(container)


async def gone(container: ContainerSandbox) -> bool:
    owner = container._engine.owner
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        command = [*container._engine.command, "ps", "-a", "--format", "{{.Names}}"]
        listed = await asyncio.to_thread(
            subprocess.run, command, capture_output=True, text=True, check=False
        )
        if owner not in listed.stdout:
            return True
        await asyncio.sleep(0.25)
    return False
