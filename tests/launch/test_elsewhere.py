"""Asking processes for their stacks through Ray, as on a host that no signal of ours reaches."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cispo.stacks import VARIABLE, Stacks
from launch.cluster import ask_elsewhere
from tests.waiting import wait_until

CODE = "from cispo.stacks import offer_stacks\noffer_stacks('far')\nimport time\ntime.sleep(600)"


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_a_process_is_asked_by_a_task_on_its_host(tmp_path: Path) -> None:
    offers = Stacks(tmp_path).offers
    process = subprocess.Popen(
        [sys.executable, "-c", CODE], env={**os.environ, VARIABLE: str(offers)}
    )
    try:
        wait_until(lambda: any(offers.glob("far@*")), what="it offers its stacks")
        (offer,) = offers.glob("far@*")
        started = int(offer.name.split("@")[3])
        ask_elsewhere("no such host", [(process.pid, started)])
        assert offer.read_text() == ""
        ask_elsewhere(socket.gethostname(), [(process.pid, started)])
        wait_until(lambda: "most recent call first" in offer.read_text(), what="it answers")
    finally:
        process.kill()
        process.wait()
