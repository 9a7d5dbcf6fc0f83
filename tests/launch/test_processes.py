"""Ending a process with all that it started, also what has a session of its own."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from launch.processes import kill_descendants
from tests.waiting import wait_until

TREE = """
import subprocess, sys, time
from pathlib import Path
folder, depth = Path(sys.argv[1]), int(sys.argv[2])
if depth:
    subprocess.Popen([sys.executable, "-c", sys.argv[3], str(folder), str(depth - 1), sys.argv[3]],
                     start_new_session=True)
(folder / f"{depth}.pid").write_text(str(__import__("os").getpid()) + "\\n")
time.sleep(600)
"""

ENDING = """
import sys
from pathlib import Path
from launch.processes import end_now
import subprocess
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
end_now(143, "ended at once")
"""


def is_alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_all_descendants_die_and_the_process_itself_lives(tmp_path: Path) -> None:
    root = subprocess.Popen([sys.executable, "-c", TREE, str(tmp_path), "2", TREE])
    try:
        files = [tmp_path / f"{depth}.pid" for depth in range(3)]
        wait_until(
            lambda: all(file.exists() and file.read_text().endswith("\n") for file in files),
            what="the tree stands",
        )
        leaf, branch = (int(file.read_text()) for file in files[:2])
        os.kill(leaf, signal.SIGSTOP)
        kill_descendants(root.pid)
        wait_until(lambda: not is_alive(leaf) and not is_alive(branch), what="they are gone")
        assert is_alive(root.pid)
    finally:
        root.kill()
        root.wait()


def test_an_end_at_once_says_why_and_leaves_nobody() -> None:
    ended = subprocess.run([sys.executable, "-c", ENDING], capture_output=True, text=True)
    assert ended.returncode == 143
    assert ended.stderr == "ended at once\n"
    child = int(ended.stdout)
    wait_until(lambda: not is_alive(child), what="the child is gone")
