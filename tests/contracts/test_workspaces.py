"""What every backend of workspaces must do: copies that stay apart, and a way out that is ours."""

import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sandboxes.base import ExecResult, Limits, Outcome, Program
from sandboxes.workspace import ChangeKind, Workspace, WorkspaceLostError, give_away
from sandboxes.workspaces import Session, Workspaces
from tests.backends import BACKENDS, opened

LIMITS = Limits(
    cpu_seconds=5.0,
    wall_seconds=60.0,
    memory_bytes=256 * 2**20,
    max_processes=16,
    output_bytes=65536,
)


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="cispo-base-") as name:
        folder = Path(name)
        for path, text in {
            "base/src/a.py": "old\n",
            "base/gone/x": "x",
            "base/tests/seen": "of the repository",
            "packages/p.py": "p = 1\n",
            "hidden": "of the host",
        }.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
        (folder / "base" / "link").symlink_to("src/a.py")
        (folder / "base" / "src" / "a.py").chmod(0o755)
        folder.chmod(0o755)
        give_away(folder)
        yield folder


@pytest.fixture(params=BACKENDS)
async def workspaces(request: pytest.FixtureRequest) -> AsyncIterator[Workspaces]:
    async with opened(request.param) as workspaces:
        yield workspaces


@pytest.fixture
async def session(workspaces: Workspaces, folder: Path) -> AsyncIterator[Session]:
    workspace = Workspace(
        base=folder / "base",
        read_only={
            "/opt/packages": folder / "packages",
            "/workspace/tests/deep/hidden": folder / "hidden",
        },
        environment={"PYTHONPATH": "/opt/packages"},
    )
    async with workspaces.open(workspace, LIMITS) as session:
        yield session


async def say(session: Session, code: str, limits: Limits = LIMITS) -> ExecResult:
    program = Program(argv=("python3", "-c", code))
    return (await session.run(program, limits)).result


async def test_programs_share_a_copy_and_come_out_as_changes(
    session: Session, folder: Path
) -> None:
    code = (
        "import os, p, shutil; print(p.p, os.readlink('link'), os.access('src/a.py', os.X_OK))\n"
        "open('src/a.py', 'w').write('new'); os.mkdir('d'); open('d/n', 'wb').write(bytes([255]))\n"
        "shutil.rmtree('gone'); os.symlink('/etc/passwd', 'out'); os.mkfifo('pipe')\n"
        "open('tests/more', 'w').write('m'); os.chmod('d/n', 0); os.chmod('d', 0)"
    )
    result = await say(session, code)
    assert (result.stdout, result.stderr, result.exit_code) == (b"1 src/a.py True\n", b"", 0)
    assert (await say(session, "print(open('src/a.py').read())")).stdout == b"new\n"
    changes = {c.path: c for c in await session.changes(max_bytes=2**16)}
    found = {path: c.kind for path, c in changes.items() if c.kind is not ChangeKind.FOLDER}
    assert found == {
        "src/a.py": ChangeKind.FILE,
        "d/n": ChangeKind.FILE,
        "gone": ChangeKind.REMOVED,
        "out": ChangeKind.LINK,
        "pipe": ChangeKind.SPECIAL,
        "tests/more": ChangeKind.FILE,
    }
    assert (changes["src/a.py"].content, changes["d/n"].content) == (b"new", b"\xff")
    assert changes["out"].content == b"/etc/passwd"
    assert (folder / "base" / "src" / "a.py").read_text() == "old\n"
    assert (folder / "base" / "gone" / "x").exists()


async def test_what_is_shown_cannot_be_changed_and_what_is_beside_it_can(
    session: Session, folder: Path
) -> None:
    code = (
        "import os\n"
        "print(open('tests/deep/hidden').read())\n"
        "place = 'tests/deep/hidden'\n"
        "for act in (lambda: open(place, 'w'), lambda: os.remove(place),"
        " lambda: os.rename(place, 'x'), lambda: open('/opt/packages/p.py', 'w')):\n"
        "    try: act()\n"
        "    except OSError: print('refused')\n"
        "open('tests/deep/own', 'w').write('o')\n"
    )
    result = await say(session, code)
    assert result.stdout == b"of the host\n" + b"refused\n" * 4, result
    paths = [c.path for c in await session.changes(max_bytes=2**16)]
    assert "tests/deep/own" in paths
    assert "tests/deep/hidden" not in paths
    assert (folder / "hidden").read_text() == "of the host"


async def test_reading_follows_no_link_and_refuses_what_is_no_path(session: Session) -> None:
    await say(session, "import os; os.symlink('/etc/passwd', 'out'); os.mkfifo('pipe')")
    read = await session.read("src/a.py", max_bytes=2)
    assert (read.kind, read.content) == (ChangeKind.FILE, b"ol")
    assert (await session.read("out", max_bytes=9)).kind is ChangeKind.MISSING
    assert (await session.read("pipe", max_bytes=9)).kind is ChangeKind.SPECIAL
    assert (await session.read("a" * 300, max_bytes=9)).kind is ChangeKind.MISSING
    for path in ("/etc/passwd", "../x", "a/../b", "\0", "\ud800"):
        with pytest.raises(ValueError, match=r"does not stay in the workspace|surrogates"):
            await session.read(path, max_bytes=9)
    await say(session, "open('big', 'wb').write(bytes(10**5))")
    with pytest.raises(ValueError, match="more than 1000 bytes"):
        await session.changes(max_bytes=1000)


async def test_a_private_pipe_is_the_drivers_alone(session: Session) -> None:
    code = "import os; print('seen'); os.write(3, b'private')"
    ran = await session.run(Program(argv=("python3", "-c", code)), LIMITS, result_bytes=4)
    assert (ran.result.stdout, ran.private) == (b"seen\n", b"priv")
    refused = await say(session, "import os; os.write(3, b'x')")
    assert refused.exit_code == 1
    code = (
        "import os\n"
        "for path in ('environ', 'mem', 'fd/0', 'fd/1', 'fd/3'):\n"
        "    try: open('/proc/1/' + path, 'rb').read(1); print('open')\n"
        "    except OSError: pass\n"
    )
    assert (await say(session, code)).stdout == b""


async def test_nothing_outlives_a_program_and_a_session_survives_it(session: Session) -> None:
    code = (
        "import os, signal, time\n"
        "for number in range(3):\n"
        "    if os.fork() == 0:\n"
        "        os.setsid(); signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(1000)\n"
        "print('left')"
    )
    assert (await say(session, code)).stdout == b"left\n"
    code = "import os; print(sum(n.isdigit() for n in os.listdir('/proc')))"
    assert int((await say(session, code)).stdout) <= 2
    for attack, outcome in (
        ("while True: pass", Outcome.TIMED_OUT),
        ("b = [bytes([1]) * 2**20 for _ in range(2**10)]", Outcome.OUT_OF_MEMORY),
        ("print('a' * 2**20)", Outcome.OUTPUT_LIMIT),
        ("import os, signal; os.kill(1, signal.SIGKILL); os.kill(-1, 9)", Outcome.EXITED),
    ):
        result = await say(session, attack, replace(LIMITS, cpu_seconds=1.0))
        assert result.outcome is outcome, (attack, result)
    result = await say(session, "import os; os.chmod('src', 0); print('well')")
    assert result.stdout == b"well\n"
    assert await session.changes(max_bytes=2**16) is not None


async def test_a_folder_too_deep_to_read_costs_nobody_the_session(session: Session) -> None:
    code = (
        "import os\n"
        "open('kept', 'w').write('k')\n"
        "for _ in range(1500): os.mkdir('a'); os.chdir('a')\n"
    )
    assert (await say(session, code)).exit_code == 0
    changes = await session.changes(max_bytes=2**20)
    assert "kept" in {change.path for change in changes}


async def test_sessions_are_apart_and_one_that_cannot_begin_is_lost(
    workspaces: Workspaces, folder: Path
) -> None:
    workspace = Workspace(base=folder / "base")
    async with workspaces.open(workspace, LIMITS) as one:
        await say(one, "open('of one', 'w').write('1'); open('/tmp/of one', 'w').write('1')")
        async with workspaces.open(workspace, LIMITS) as other:
            code = "import os; print(os.path.exists('of one'), os.path.exists('/tmp/of one'))"
            assert (await say(other, code)).stdout == b"False False\n"
    gone = folder / "went"
    gone.mkdir()
    broken = Workspace(base=gone)
    os.rmdir(gone)
    with pytest.raises(WorkspaceLostError):
        async with workspaces.open(broken, LIMITS):
            pass
