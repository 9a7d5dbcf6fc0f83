"""A git repository with a fault, its fix and tests, made by the tests themselves."""

import os
import subprocess
from pathlib import Path

FAULTY = "def double(n):\n    return n + n + 1\n\n\ndef half(n):\n    return n // 2\n"
FIXED = FAULTY.replace(" + 1", "")
OLD_TESTS = "from twice import half\n\n\ndef test_half():\n    assert half(9) == 4\n"
NEW_TESTS = """\
import pytest

from twice import double, half


def test_half():
    assert half(9) == 4


@pytest.mark.parametrize(("n", "twice"), [(1, 2), (4, 8), (0, 0)])
def test_double(n, twice):
    assert double(n) == twice


def test_half_of_double():
    assert half(double(21)) == 21


class TestTexts:
    def test_double_of_text(self):
        with pytest.raises(TypeError):
            double("a")

    def test_double_of_ten(self):
        assert double(10) == 20
"""


def git(folder: Path, *arguments: str) -> str:
    identity = {f"GIT_{role}_{part}": "someone" for role in ("AUTHOR", "COMMITTER")
                for part in ("NAME", "EMAIL")}  # fmt: skip
    ran = subprocess.run(
        ["git", *arguments],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": os.devnull, **identity},
        capture_output=True,
        text=True,
        check=True,
    )
    return ran.stdout.strip()


def commit(folder: Path, message: str, files: dict[str, str]) -> str:
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", message)
    return git(folder, "rev-parse", "HEAD")


def make_repository(folder: Path) -> tuple[str, str, str]:
    """Make the repository; return the names of its first commit, of the fault and of the fix."""
    folder.mkdir(parents=True)
    git(folder, "init", "--quiet", "--initial-branch=main")
    hidden = {".gitattributes": "tests export-ignore\n", "notes.txt": "remember 1234\n"}
    first = commit(folder, "Begin", {"src/twice.py": "", **hidden})
    (folder / "notes.txt").unlink()
    fault = commit(folder, "Add halves", {"src/twice.py": FAULTY, "tests/test_twice.py": OLD_TESTS})
    fixed = {"src/twice.py": FIXED, "tests/test_twice.py": NEW_TESTS}
    fix = commit(folder, "Mend double\n\nIt is one too many.", fixed)
    git(folder, "tag", "v1")
    return first, fault, fix
