import os
import signal
import subprocess
import sys

from launch.reaper import reaped, started
from tests.waiting import wait_until

DRIVER = """
import subprocess, sys, time
from launch.reaper import reaped
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"],
                         start_new_session=True)
with reaped([child.pid]):
    print(child.pid, flush=True)
    time.sleep(600)
"""


def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])


def test_what_a_killed_process_has_started_is_killed_too() -> None:
    driver = subprocess.Popen([sys.executable, "-c", DRIVER], stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    child = int(driver.stdout.readline())
    driver.kill()
    driver.wait()
    wait_until(lambda: started(child) is None, what="the child is gone")


def test_at_the_end_of_the_block_the_living_are_killed_and_no_other() -> None:
    mine, other = sleeper(), sleeper()
    try:
        with reaped([mine.pid]):
            assert mine.poll() is None
        assert mine.wait() == -signal.SIGKILL
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_process_that_is_gone_is_not_named() -> None:
    ended = sleeper()
    ended.kill()
    ended.wait()
    assert started(ended.pid) is None
    assert started(os.getpid()) is not None
    with reaped([ended.pid]):
        pass
