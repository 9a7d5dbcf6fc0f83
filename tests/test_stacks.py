"""Stacks of real processes, also of those that hang where no Python code can run."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cispo.stacks import VARIABLE, Stacks, offer_stacks
from tests.waiting import wait_until

SLEEPING = "import time\ndef sleeper(): time.sleep(600)\nsleeper()"
# A signal ends libc's sleep early.
HOLDING_THE_LOCK = """
import ctypes
def holder():
    while True: ctypes.PyDLL(None).sleep(600)
holder()"""

Start = Callable[[str, str], subprocess.Popen[bytes]]


@pytest.fixture
def stacks(tmp_path: Path) -> Stacks:
    return Stacks(tmp_path)


@pytest.fixture
def start(stacks: Stacks) -> Iterator[Start]:
    """Starts a process that offers its stacks under a name and then runs some code."""
    started = []

    def begin(name: str, code: str) -> subprocess.Popen[bytes]:
        offer = f"from cispo.stacks import offer_stacks\noffer_stacks({name!r})\n"
        process = subprocess.Popen(
            [sys.executable, "-c", offer + code],
            env={**os.environ, VARIABLE: str(stacks.offers)},
        )
        started.append(process)
        wait_until(
            lambda: any(stacks.offers.glob(f"{name}@*@{process.pid}@*")), what=f"{name} offers"
        )
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait()


def test_every_process_shows_where_it_is(start: Start, stacks: Stacks) -> None:
    first = start("learner rank 0", SLEEPING)
    second = start("rollout-1", HOLDING_THE_LOCK)
    wait_until(lambda: "holder" in stacks.dump().path.read_text(), what="it holds the lock")
    dump = stacks.dump()
    text = dump.path.read_text()
    assert dump.silent == {}
    sections = text.split("\n\n")
    (learner,) = [part for part in sections if part.startswith("learner rank 0 (process ")]
    (rollout,) = [part for part in sections if part.startswith("rollout-1 (process ")]
    assert f"process {first.pid} on" in learner
    assert "in sleeper" in learner
    assert f"process {second.pid} on" in rollout
    assert "in holder" in rollout
    assert f"driver (process {os.getpid()})" in text
    assert "test_every_process_shows_where_it_is" in text


def test_a_stopped_process_is_named_as_the_one_that_does_not_answer(
    start: Start, stacks: Stacks
) -> None:
    start("learner rank 0", SLEEPING)
    stopped = start("learner rank 1", SLEEPING)
    os.kill(stopped.pid, signal.SIGSTOP)
    dump = stacks.dump(seconds=1.0)
    assert dump.silent == {"learner rank 1": "stopped"}
    assert str(dump) == f"{dump.path}; no answer from learner rank 1 (stopped)"
    assert "wrote nothing: it is stopped" in dump.path.read_text()


def test_a_dead_process_is_left_out_and_its_id_is_not_signalled(
    start: Start, stacks: Stacks
) -> None:
    process = start("rollout-0", SLEEPING)
    process.kill()
    process.wait()
    (offer,) = stacks.offers.iterdir()
    # the kernel gave its id to a process that would die of the signal
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        name, host, _, started = offer.name.split("@")
        offer.rename(offer.with_name(f"{name}@{host}@{bystander.pid}@{started}"))
        dump = stacks.dump(seconds=1.0)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()
    assert dump.silent == {}
    assert "rollout-0" not in dump.path.read_text()


def test_processes_of_other_hosts_are_asked_there(tmp_path: Path) -> None:
    asked = []
    stacks = Stacks(tmp_path, elsewhere=lambda host, pids: asked.append((host, list(pids))))
    stacks.offers.mkdir()
    (stacks.offers / "rollout-3@node-7@4711@99").touch()
    dump = stacks.dump(seconds=0.2)
    assert asked == [("node-7", [(4711, 99)])]
    assert dump.silent == {"rollout-3": ""}


async def test_the_drivers_coroutines_are_listed(stacks: Stacks) -> None:
    async def waits_for_ever() -> None:
        await asyncio.Event().wait()

    waiting = asyncio.create_task(waits_for_ever(), name="group 4")
    await asyncio.sleep(0)
    dump = stacks.dump(loop=asyncio.get_running_loop())
    waiting.cancel()
    text = dump.path.read_text()
    assert "group 4" in text
    assert "waits_for_ever, " in text


def test_a_process_that_no_run_asked_offers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    offer_stacks("alone")
    assert signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL


def test_what_was_offered_is_removed_and_the_dumps_stay(start: Start, stacks: Stacks) -> None:
    start("rollout-0", SLEEPING)
    dump = stacks.dump()
    stacks.close()
    assert not stacks.offers.exists()
    assert dump.path.exists()
