import os
import signal
import subprocess
import sys
import threading

from launch.signals import signals_to
from tests.waiting import wait_until

STUCK = """
import asyncio, subprocess, sys, time
from launch.interrupts import Interrupts
from launch.signals import signals_to

async def stuck():
    with interrupts.covering():
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        print("child", child.pid, flush=True)
        while True:
            time.sleep(600)  # the event loop never runs again

interrupts = Interrupts(lambda text: print(text, flush=True))
with signals_to(interrupts.on_signal):
    asyncio.run(stuck())
"""


def test_signals_are_heeded_in_another_thread_and_end_nothing_by_themselves() -> None:
    heeded: list[tuple[str, bool]] = []
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    def heed(number: signal.Signals) -> None:
        heeded.append((number.name, threading.current_thread() is threading.main_thread()))

    with signals_to(heed):
        os.kill(os.getpid(), signal.SIGTERM)
        wait_until(lambda: len(heeded) == 1, what="the first is heeded")
        os.kill(os.getpid(), signal.SIGINT)
        wait_until(lambda: len(heeded) == 2, what="the second is heeded")
    assert heeded == [("SIGTERM", False), ("SIGINT", False)]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert "signals" not in {thread.name for thread in threading.enumerate()}


def test_a_second_signal_ends_a_run_whose_event_loop_is_stuck_with_all_it_started() -> None:
    run = subprocess.Popen(
        [sys.executable, "-c", STUCK], stdout=subprocess.PIPE, text=True, stderr=subprocess.PIPE
    )
    assert run.stdout is not None
    child = int(run.stdout.readline().split()[1])
    run.send_signal(signal.SIGTERM)
    first = run.stdout.readline()
    assert first.startswith("SIGTERM: sampling is given up")
    assert "once more ends the run at once" in first
    assert run.poll() is None
    run.send_signal(signal.SIGINT)
    _, errors = run.communicate(timeout=120)
    assert run.returncode == 128 + signal.SIGINT
    assert errors == "SIGINT again: ended at once, without a checkpoint\n"
    wait_until(lambda: not os.path.exists(f"/proc/{child}"), what="the child is gone")
