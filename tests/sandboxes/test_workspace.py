"""Workspaces: programs change a folder that does not change, and what they left is read safely."""

import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sandboxes.base import ExecResult, Limits, Outcome, Program
from sandboxes.bubblewrap import NO_CGROUPS, BubblewrapSandbox
from sandboxes.workspace import (
    ChangeKind,
    Workspace,
    WorkspaceLostError,
    WorkspaceSession,
    give_away,
    open_workspace,
)

LIMITS = Limits(
    cpu_seconds=5.0,
    wall_seconds=30.0,
    memory_bytes=256 * 2**20,
    max_processes=16,
    output_bytes=65536,
    tmp_bytes=2**20,
)
WRITE_BYTES = 4 * 2**20


@pytest.fixture
def base() -> Iterator[Path]:
    """A folder that the sandbox's own user may enter, which a test's own folder may not be."""
    with tempfile.TemporaryDirectory(prefix="cispo-base-") as name:
        base = Path(name)
        base.chmod(0o755)
        (base / "src").mkdir()
        (base / "src" / "a.py").write_text("old\n")
        (base / "gone").write_text("x")
        (base / "tests").mkdir()
        (base / "tests" / "visible").write_text("of the repository")
        give_away(base)
        yield base


@pytest.fixture
def hidden() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="cispo-hidden-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "test_hidden").write_text("of the host")
        yield folder


@pytest.fixture(params=["control groups", "none"])
async def session(
    request: pytest.FixtureRequest, base: Path, hidden: Path, sandbox: BubblewrapSandbox
) -> AsyncIterator[WorkspaceSession]:
    jails = sandbox if request.param == "control groups" else BubblewrapSandbox(cgroups=NO_CGROUPS)
    workspace = Workspace(
        base=base,
        read_only={"/workspace/tests": hidden, "/opt/tools": hidden},
        environment={"STAGE": "grading"},
        write_bytes=WRITE_BYTES,
    )
    async with open_workspace(jails, workspace, LIMITS) as opened:
        yield opened


async def run(session: WorkspaceSession, code: str, limits: Limits = LIMITS) -> ExecResult:
    program = Program(argv=("python3", "-I", "-S", "-c", code))
    return (await session.run(program, limits)).result


async def test_programs_share_a_workspace_that_the_base_does_not_see(
    session: WorkspaceSession, base: Path
) -> None:
    first = await run(session, "open('src/a.py', 'w').write('new'); open('/tmp/n', 'w').write('7')")
    assert first.outcome is Outcome.EXITED, first
    second = await run(session, "print(open('src/a.py').read(), open('/tmp/n').read())")
    assert second.stdout == b"new 7\n"
    assert (base / "src" / "a.py").read_text() == "old\n"
    assert not session.is_lost


async def test_what_lies_over_the_workspace_is_read_only(session: WorkspaceSession) -> None:
    code = (
        "import os\nprint(os.listdir('tests'), open('/opt/tools/test_hidden').read())\n"
        "for f in ('tests/test_hidden', 'tests/new', '/opt/tools/x'):\n"
        "  try: open(f, 'w'); print('GOT THROUGH')\n  except OSError: pass"
    )
    result = await run(session, code)
    assert result.stdout == b"['test_hidden'] of the host\n", result


async def test_the_sources_of_a_workspace_cannot_be_reached_past_it(
    session: WorkspaceSession,
) -> None:
    result = await run(session, "import os; print(os.listdir('/mnt'), os.getcwd())")
    assert result.stdout == b"[] /workspace\n"


async def test_changes_are_told_with_their_kind(session: WorkspaceSession) -> None:
    code = (
        "import os, shutil\nopen('src/a.py', 'w').write('new'); os.unlink('gone')\n"
        "os.symlink('/etc/passwd', 'link'); os.mkfifo('pipe'); os.mkdir('fresh')\n"
        "open('fresh/b', 'wb').write(bytes([255, 0, 10])); os.chmod('fresh/b', 0o755)"
    )
    await run(session, code)
    changes = {change.path: change for change in await session.changes(max_bytes=2**16)}
    assert {path: change.kind for path, change in changes.items()} == {
        "src": ChangeKind.FOLDER,
        "src/a.py": ChangeKind.FILE,
        "gone": ChangeKind.REMOVED,
        "link": ChangeKind.LINK,
        "pipe": ChangeKind.SPECIAL,
        "fresh": changes["fresh"].kind,
        "fresh/b": ChangeKind.FILE,
    }
    assert changes["fresh"].kind in (ChangeKind.FOLDER, ChangeKind.REPLACED)
    assert changes["src/a.py"].content == b"new"
    assert changes["fresh/b"].content == b"\xff\x00\n"
    assert changes["fresh/b"].mode == 0o755
    assert changes["link"].content == b"/etc/passwd"


async def test_a_folder_that_replaced_another_is_told(session: WorkspaceSession) -> None:
    code = "import os, shutil; shutil.rmtree('src'); os.mkdir('src'); open('src/n', 'w').close()"
    await run(session, code)
    changes = {change.path: change.kind for change in await session.changes(max_bytes=2**16)}
    assert changes == {"src": ChangeKind.REPLACED, "src/n": ChangeKind.FILE}


async def test_reading_follows_no_link_and_waits_for_no_pipe(session: WorkspaceSession) -> None:
    code = (
        "import os\nos.symlink('/etc/alternatives', 'folder'); os.symlink('src/a.py', 'link')\n"
        "os.symlink('/proc/1/root', 'root'); os.mkfifo('pipe')\n"
    )
    await run(session, code)
    for path in ("folder/README", "link", "root/etc/passwd", "none", "src/a.py/x"):
        assert (await session.read(path, max_bytes=100)).kind is ChangeKind.MISSING
    assert (await session.read("pipe", max_bytes=100)).kind is ChangeKind.SPECIAL
    assert (await session.read("src/a.py", max_bytes=2)).content == b"ol"


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "src/../../x", "src//a.py", "a\0b"])
async def test_paths_that_leave_the_workspace_are_refused(
    session: WorkspaceSession, path: str
) -> None:
    with pytest.raises(ValueError, match="does not stay"):
        await session.read(path, max_bytes=1)


async def test_what_is_written_is_bounded_together(session: WorkspaceSession) -> None:
    code = (
        "def fill(path):\n  n = 0\n  try:\n    with open(path, 'wb', 0) as f:\n"
        "      while True: n += f.write(bytes(65536))\n  except OSError: return n\n"
        "print(fill('one') + fill('/tmp/two') + fill('three'))"
    )
    written = int((await run(session, code, replace(LIMITS, tmp_bytes=2**24))).stdout)
    assert written <= WRITE_BYTES


async def test_too_many_changes_are_an_error_and_not_a_part(session: WorkspaceSession) -> None:
    await run(session, "open('big', 'w').write('x' * 100000)")
    with pytest.raises(ValueError, match="more than 1000 bytes"):
        await session.changes(max_bytes=1000)


async def test_a_private_pipe_is_apart_from_the_output(session: WorkspaceSession) -> None:
    code = "import os; print('out'); os.write(3, b'private')"
    ran = await session.run(
        Program(argv=("python3", "-I", "-S", "-c", code)), LIMITS, result_bytes=5
    )
    assert (ran.result.stdout, ran.private) == (b"out\n", b"priva")


async def test_without_a_private_pipe_there_is_no_fourth_descriptor(
    session: WorkspaceSession,
) -> None:
    result = await run(session, "import os; os.write(3, b'x')")
    assert b"Bad file descriptor" in result.stderr


async def test_nothing_that_a_program_starts_outlives_it(session: WorkspaceSession) -> None:
    code = (
        "import os, time\nif os.fork() == 0:\n  os.setsid()\n  while True:\n"
        "    open('ticks', 'a').write('x'); time.sleep(0.01)\n"
        "while not os.path.exists('ticks'): pass"
    )
    assert (await run(session, code)).outcome is Outcome.EXITED
    first = await session.read("ticks", max_bytes=10**6)
    await run(session, "import time; time.sleep(0.1)")
    assert await session.read("ticks", max_bytes=10**6) == first
    assert not session.is_lost


async def test_a_program_finds_its_files_folder_and_variables(session: WorkspaceSession) -> None:
    program = Program(
        argv=("sh", "-c", "pwd; cat /tmp/given/f; echo $STAGE $MORE"), files={"given/f": b"hello\n"}
    )
    ran = await session.run(program, LIMITS, cwd="/workspace/src", environment={"MORE": "2"})
    assert ran.result.stdout == b"/workspace/src\nhello\ngrading 2\n"


async def test_a_link_in_the_place_of_a_given_file_is_replaced(session: WorkspaceSession) -> None:
    await run(session, "import os; os.symlink('/workspace/src', '/tmp/given')")
    program = Program(argv=("cat", "/tmp/given/a.py"), files={"given/a.py": b"mine"})
    assert (await session.run(program, LIMITS)).result.stdout == b"mine"
    assert (await session.read("src/a.py", max_bytes=10)).content == b"old\n"


async def test_a_session_survives_programs_that_break_limits(session: WorkspaceSession) -> None:
    short = replace(LIMITS, cpu_seconds=0.3)
    assert (await run(session, "while True: pass", short)).outcome is Outcome.TIMED_OUT
    flood = await run(session, "import os\nwhile True: os.write(1, bytes(65536))")
    assert flood.outcome is Outcome.OUTPUT_LIMIT
    assert (await run(session, "print(1)")).stdout == b"1\n"
    assert not session.is_lost


async def test_a_jail_that_is_gone_is_no_fault_of_a_program(
    base: Path, sandbox: BubblewrapSandbox
) -> None:
    async with open_workspace(sandbox, Workspace(base=base), LIMITS) as session:
        session._server._process.kill()
        result = await run(session, "print(1)")
        assert result.outcome is Outcome.LOST
        assert session.is_lost
        with pytest.raises(WorkspaceLostError):
            await session.changes(max_bytes=1000)


async def test_the_limits_of_a_workspace_are_told(base: Path) -> None:
    with pytest.raises(ValueError, match="is no folder"):
        Workspace(base=base / "none")
    with pytest.raises(ValueError, match="no plain absolute path"):
        Workspace(base=base, read_only={"tests": base})
    with pytest.raises(ValueError, match="does not exist"):
        Workspace(base=base, read_only={"/opt/x": base / "none"})
    with pytest.raises(ValueError, match="write_bytes is 0"):
        Workspace(base=base, write_bytes=0)


def test_what_is_given_away_belongs_to_the_jails_user_links_included(base: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("an ordinary user's jails run as the user")
    assert {path.lstat().st_uid for path in base.rglob("*")} == {61000}
