"""Patches: read, written, undone and applied, with git as the judge."""

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cispo.data.swe.patch import BadPatchError, FilePatch, Hunk, format_diff, reverse, split_lines
from cispo.data.swe.read_patch import parse_blocks, parse_diff
from rewards.swe.answer import read_patch
from sandboxes.swe.inside.hunks import DoesNotApplyError, apply_hunks

LINES = st.lists(st.sampled_from(["a", "b", "c", "", "--- x", "+++ y", "@@ z", "d e"]), max_size=12)


def applied(text: str, patch: FilePatch) -> str:
    hunks = [{"old": h.old, "new": h.new, "start": h.start} for h in patch.hunks]
    return apply_hunks(text, hunks)


def git_diff(folder: Path, before: str, after: str) -> str:
    (folder / "f").write_text(before)
    (folder / "g").write_text(after)
    command = ["git", "diff", "--no-index", "--no-color", "f", "g"]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return ran.stdout.replace("b/g", "b/f").replace("rename", "x")


@settings(max_examples=40, deadline=None)
@given(before=LINES, after=LINES, ends=st.tuples(st.booleans(), st.booleans()))
def test_what_git_writes_is_read_applied_and_undone(
    tmp_path_factory: pytest.TempPathFactory,
    before: list[str],
    after: list[str],
    ends: tuple[bool, bool],
) -> None:
    one, two = (
        "\n".join(lines) + ("\n" if lines and end else "")
        for lines, end in zip((before, after), ends, strict=True)
    )
    diff = git_diff(tmp_path_factory.mktemp("git"), one, two)
    if not diff:
        return
    [patch] = parse_diff(diff)
    assert applied(one, patch) == two
    assert parse_diff(format_diff([patch])) == (replace(patch, mode=None),)
    [undo] = reverse([patch])
    assert applied(two, undo) == one


def test_what_is_written_is_what_git_applies(tmp_path: Path) -> None:
    hunk = Hunk(old=("one\n", "two\n"), new=("one\n", "2\n", "3"), start=1)
    new = Hunk(old=(), new=("x\n",), start=1)
    diff = format_diff(
        [
            FilePatch(old_path="a", new_path="a", hunks=(hunk,)),
            FilePatch(old_path=None, new_path="d/n", hunks=(new,), mode="100755"),
            FilePatch(old_path="gone", new_path=None, hunks=(Hunk(old=("g\n",), new=(), start=1),)),
        ]
    )
    (tmp_path / "a").write_text("one\ntwo\n")
    (tmp_path / "gone").write_text("g\n")
    subprocess.run(["git", "apply", "-"], input=diff, text=True, cwd=tmp_path, check=True)
    assert (tmp_path / "a").read_text() == "one\n2\n3"
    assert (tmp_path / "d/n").read_text() == "x\n"
    assert (tmp_path / "d/n").stat().st_mode & 0o100
    assert not (tmp_path / "gone").exists()


BASE = "def a():\n    return 1\n\n\ndef b():\n    return 1\n"


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        ("```diff\n--- a/m.py\n+++ b/m.py\n@@ -5,2 +5,2 @@\n def b():\n-    return 1\n"
         "+    return 2\n```", 5),
        # counts and numbers that are wrong, a path without a prefix
        ("--- m.py\n+++ m.py\n@@ -1,9 +1,9 @@\n def b():\n-    return 1\n+    return 2\n", 5),
        ("Here:\n```diff\n@@ @@\n def b():\n-    return 1\n+    return 2\n```\nDone.", 5),
        ("```diff\n@@\n def b():\n-    return 1\n+    return 2\n```", 5),
        ("<think>\n```diff\n-x\n+y\n```\n</think>\n```diff\n-def b():\n-    return 1\n"
         "+def b():\n+    return 2\n```", 5),
        ("m.py\n<<<<<<< SEARCH\ndef b():\n    return 1\n=======\ndef b():\n    return 2\n"
         ">>>>>>> REPLACE\n", 5),
        ("### `m.py`\n```\n<<<<<<< SEARCH\ndef b():\n    return 1\n=======\ndef b():\n"
         "    return 2\n>>>>>>> REPLACE\n```\n", 5),
        # a blank line of context that lost its space
        ("--- a/m.py\n+++ b/m.py\n@@ -4,3 +4,3 @@\n\n def b():\n-    return 1\n+    return 2\n", 5),
    ],
)  # fmt: skip
def test_what_policies_mean_is_understood(answer: str, line: int) -> None:
    [patch] = read_patch(answer, default_path="m.py")
    assert patch.path == "m.py"
    after = applied(BASE, patch).split("\n")
    assert after[line] == "    return 2"
    assert after[1] == "    return 1"


def test_several_files_and_blocks_of_one_file_come_together() -> None:
    block = "{}\n<<<<<<< SEARCH\n{}\n=======\n{}\n>>>>>>> REPLACE\n"
    text = block.format("a", "1", "2") + block.format("b", "1", "2") + block.format("a", "3", "4")
    patches = parse_blocks(text)
    assert [(p.path, len(p.hunks)) for p in patches] == [("a", 2), ("b", 1)]
    new = parse_blocks("n.py\n<<<<<<< SEARCH\n=======\nx = 1\n>>>>>>> REPLACE\n")
    assert (new[0].old_path, applied("", new[0])) == (None, "x = 1\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no patch at all", "no diff in it"),
        ("@@ -1 +1 @@\n-a\n+b\n", "a hunk without a file"),
        ("--- a/../x\n+++ b/../x\n@@ -1 +1 @@\n-a\n+b\n", "does not stay in the repository"),
        ("--- /etc/x\n+++ /etc/x\n@@ -1 +1 @@\n-a\n+b\n", "does not stay in the repository"),
        ("diff --git a/x b/x\nnew file mode 120000\n--- /dev/null\n+++ b/x\n@@ -0,0 +1 @@\n+/etc\n",
         "mode 120000"),
        ("diff --git a/x b/x\nnew file mode 160000\n", "mode 160000"),
        ("diff --git a/x b/x\nBinary files a/x and b/x differ\n", "binary"),
        ("--- /dev/null\n+++ /dev/null\n@@ -0,0 +1 @@\n+a\n", "without the path"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_well_is_refused(text: str, message: str) -> None:
    with pytest.raises(BadPatchError, match=message):
        parse_diff(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<<<<<<< SEARCH\na\n=======\nb\n>>>>>>> REPLACE\n", "no path"),
        ("a.py\n<<<<<<< SEARCH\na\nb\n>>>>>>> REPLACE\n", "without ======="),
        ("a.py\n<<<<<<< SEARCH\na\n=======\nb\n", "without >>>>>>> REPLACE"),
        ("", "no <<<<<<< SEARCH"),
    ],
)
def test_blocks_that_are_not_whole_are_refused(text: str, message: str) -> None:
    with pytest.raises(BadPatchError, match=message):
        parse_blocks(text)


def hunk(old: str, new: str, start: int | None = None) -> dict[str, object]:
    return {"old": split_lines(old), "new": split_lines(new), "start": start}


def test_the_place_nearest_to_the_line_number_counts() -> None:
    text = "x\na\nx\na\nx\na\n"
    assert apply_hunks(text, [hunk("a\n", "b\n", 4)]) == "x\na\nx\nb\nx\na\n"
    assert apply_hunks(text, [hunk("a\n", "b\n", 5)]) == "x\na\nx\nb\nx\na\n"
    assert apply_hunks(text, [hunk("a\n", "b\n", 99)]) == "x\na\nx\na\nx\nb\n"
    # What was inserted above moves what lies below.
    both = [hunk("x\na\n", "x\na\n1\n2\n3\n", 1), hunk("a\n", "b\n", 6)]
    assert apply_hunks(text, both) == "x\na\n1\n2\n3\nx\na\nx\nb\n"


@pytest.mark.parametrize(
    ("hunks", "message"),
    [
        ([hunk("absent\n", "b\n", 1)], "hunk 1: its lines are not there: 'absent'"),
        ([hunk("a\n", "b\n")], "hunk 1: its lines are there 2 times"),
        ([hunk("", "b\n")], "only adds lines and does not say where"),
        ([hunk("x\na\n", "b\n", 1), hunk("x\na\n", "c\n", 1), hunk("x\n", "d\n", 1)], "hunk 3"),
    ],
)
def test_what_does_not_fit_is_refused(hunks: list[dict[str, object]], message: str) -> None:
    with pytest.raises(DoesNotApplyError, match=message):
        apply_hunks("x\na\nx\na\n", hunks)


def test_a_file_without_a_last_line_break_keeps_it_that_way() -> None:
    assert apply_hunks("a\nb", [hunk("b\n", "c\n", 2)]) == "a\nc"
    assert apply_hunks("a\nb", [hunk("", "c\n", 3)]) == "a\nb\nc\n"
    assert apply_hunks("", [hunk("", "c\n", 1)]) == "c\n"


def test_reading_takes_linear_time() -> None:
    hostile = "@@ -1,999999999 +1,999999999 @@\n" + "--- a\n+++ b\n" * 20_000
    with pytest.raises(BadPatchError, match="at most"):
        read_patch(hostile * 10, default_path="m.py")
    parse_diff(hostile, default_path="m.py")
