"""The service as a process: it serves a real sandbox, and does not show its token."""

import os
import signal
import subprocess
import sys
import urllib.request

import pytest

from cispo.errors import SandboxUnavailableError
from sandboxes.base import Limits, Outcome, Program
from sandboxes.bubblewrap import BubblewrapSandbox
from sandboxes.wire import decode_result, encode_request

TOKEN = "a token for these tests only"
LIMITS = Limits(
    cpu_seconds=5.0,
    wall_seconds=20.0,
    memory_bytes=2**28,
    max_processes=16,
    output_bytes=1000,
)


def test_the_service_serves_a_real_sandbox_and_hides_its_token() -> None:
    try:
        BubblewrapSandbox()
    except SandboxUnavailableError as error:
        pytest.skip(f"NO SANDBOX ON THIS MACHINE, security is untested: {error}")
    with subprocess.Popen(
        [sys.executable, "-m", "sandboxes.service", "--port", "0", "--max-concurrent", "1"],
        env={**os.environ, "CISPO_SANDBOX_TOKEN": TOKEN, "PYTHONPATH": os.getcwd()},
        stderr=subprocess.PIPE,
        text=True,
    ) as service:
        assert service.stderr is not None
        try:
            said = service.stderr.readline()
            assert "serving on 127.0.0.1:" in said, said
            assert TOKEN not in said
            port = int(said.split("127.0.0.1:")[1].split()[0])
            code = "import os; print(open('/proc/self/environ').read(), dict(os.environ))"
            program = Program(argv=("python3", "-I", "-S", "-c", code))
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/run",
                data=encode_request(program, LIMITS),
                headers={"Authorization": f"Bearer {TOKEN}"},
            )
            with urllib.request.urlopen(request, timeout=120) as response:
                result = decode_result(response.read())
            assert result.outcome is Outcome.EXITED
            assert TOKEN.encode() not in result.stdout
        finally:
            service.send_signal(signal.SIGTERM)
        assert service.wait(timeout=120) == 0


def test_a_service_without_a_token_does_not_start() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "sandboxes.service"],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert ended.returncode == 2
    assert "CISPO_SANDBOX_TOKEN" in ended.stderr
