"""What a locked-down process can no longer do, tried in real children."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ATTACKS = {
    "write a file": "open('{folder}/new', 'w')",
    "append to a file": "open('{folder}/old', 'a')",
    "truncate a file": "os.truncate('{folder}/old', 0)",
    "remove a file": "os.unlink('{folder}/old')",
    "rename a file": "os.rename('{folder}/old', '{folder}/new')",
    "make a folder": "os.mkdir('{folder}/new')",
    "link": "os.symlink('/etc', '{folder}/new')",
    "change permissions": "os.chmod('{folder}/old', 0o777)",
    "execute": "os.execv('/bin/true', ['true'])",
    "fork": "os.fork()",
    "spawn": "os.posix_spawn('/bin/true', ['true'], {{}})",
    "thread": "__import__('_thread').start_new_thread(print, ())",
    "socket": "__import__('socket').socket()",
    "socket pair": "__import__('socket').socketpair()",
    "kill": "os.kill(os.getppid(), 0)",
    "memory": "bytearray(2**31)",
}
SCRIPT = """
import os
from rewards.lockdown import lock_down
__import__("socket")
lock_down(memory_bytes=2**29)
try:
    {attack}
except (OSError, MemoryError, RuntimeError):
    os.write(1, b"HELD")
else:
    os.write(1, b"GOT THROUGH")
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={"PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )


@pytest.mark.parametrize("name", list(ATTACKS))
def test_an_effect_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "old").write_text("content")
    ended = run(SCRIPT.format(attack=ATTACKS[name].format(folder=tmp_path)))
    assert ended.stdout == "HELD", ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old").read_text() == "content"


def test_computing_reading_and_importing_still_work() -> None:
    ended = run(SCRIPT.format(attack="import fractions, colorsys; raise OSError"))
    assert ended.stdout == "HELD", ended.stderr
