"""What the doctor finds, on made-up folders and numbers, and that each failure has a fix."""

import os
import resource
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

from cispo.config import SandboxConfig
from cispo.errors import ConfigError, SandboxUnavailableError
from launch.health import machine, services, software
from launch.health.finding import Check, Finding, Level, carry_out
from launch.health.nodes import Answer, compare

GB = 10**9
MEMINFO = "MemTotal:       16000000 kB\nMemFree: 1 kB\nMemAvailable:   {} kB\n"


def bad() -> Finding:
    return Finding(level=Level.FAIL, text="broken", fix="mend it")


def refused() -> Finding:
    raise ConfigError("run_dir=x: name another")


def defect() -> Finding:
    raise KeyError("x")


@pytest.mark.parametrize(
    ("check", "said"),
    [
        (bad, "FAIL  it           broken; to mend it: mend it"),
        (refused, "FAIL  it           run_dir=x: name another; to mend it: as it says"),
        (
            defect,
            "FAIL  it           the check itself failed: KeyError: 'x'; to mend it: report it",
        ),
    ],
)
def test_a_failure_is_one_line_with_a_fix_and_hides_no_other(check: Check, said: str) -> None:
    lines: list[str] = []
    checks = {"it": check, "other": lambda: Finding(text="fine")}
    assert not carry_out(checks, lines.append)
    assert lines == [said, "ok    other        fine"]


def test_a_warning_is_no_failure() -> None:
    checks = {"clock": lambda: Finding(level=Level.WARN, text="late", fix="wait")}
    assert carry_out(checks, lambda _: None)


def test_a_folder_of_the_same_name_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert software.packages().level is Level.OK
    (tmp_path / "rewards").mkdir()
    (tmp_path / "rewards" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "rewards", raising=False)
    found = software.packages()
    assert found.level is Level.FAIL
    assert f"'rewards' is imported from {tmp_path / 'rewards'}" in found.text


@pytest.mark.parametrize(
    ("dependency", "pinned", "level", "words"),
    [
        ("ray>=2.0", "", Level.OK, "1 libraries"),
        ("ray>=2.0", "ray=={ray}", Level.OK, "1 libraries"),
        ("ray>=2.0", "ray==1.0", Level.WARN, "ray {ray}, tested 1.0"),
        ("ray<1.0", "", Level.FAIL, "ray {ray} is not <1.0"),
        ("no-such-thing>=3", "", Level.FAIL, "no-such-thing>=3 is missing"),
        ("no-such-thing; python_version < '3'", "", Level.OK, ""),
    ],
)
def test_libraries_are_compared_with_what_is_asked_for_and_what_was_tested(
    dependency: str, pinned: str, level: Level, words: str, tmp_path: Path
) -> None:
    ray = version("ray")
    (tmp_path / "pyproject.toml").write_text(f'[project]\ndependencies = ["{dependency}"]\n')
    (tmp_path / "requirements").mkdir()
    pins = tmp_path / "requirements" / "constraints.txt"
    pins.write_text(f"# tested\n{pinned.format(ray=ray)}\n")
    found = software.libraries(tmp_path)
    assert found.level is level
    assert words.format(ray=ray) in found.text


def groups(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_", ".", 1)
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return folder


@pytest.mark.parametrize(
    ("free", "limit", "level", "words"),
    [
        (12 * GB // 1024, "max", Level.OK, "12 GB of 16.4 GB free"),
        (12 * GB // 1024, str(8 * GB), Level.OK, "a control group allows 8 GB"),
        (12 * GB // 1024, str(2 * GB), Level.WARN, "a control group allows 2 GB"),
        (1 * GB // 1024, "max", Level.WARN, "1 GB of 16.4 GB free"),
    ],
)
def test_memory_is_what_is_free_and_what_a_group_allows(
    free: int, limit: str, level: Level, words: str, tmp_path: Path
) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(MEMINFO.format(free))
    found = machine.memory(groups(tmp_path, memory_max=limit), meminfo)
    assert found.level is level
    assert words in found.text


def test_a_quota_of_processors_is_told(tmp_path: Path) -> None:
    count = len(os.sched_getaffinity(0))
    half = f"{count * 50000} 100000"
    allowed = f"of which a control group allows {count / 2:g}"
    assert allowed in machine.processors(groups(tmp_path, cpu_max=half)).text
    (tmp_path / "cpu.max").write_text("max 100000")
    assert machine.processors(tmp_path).text == f"{count} processors"


def test_an_object_store_that_does_not_fit_is_a_failure(tmp_path: Path) -> None:
    assert machine.shared_memory(1, tmp_path).level is Level.OK
    found = machine.shared_memory(10**18, tmp_path)
    assert found.level is Level.FAIL
    assert "cluster.object_store_bytes" in found.fix
    assert machine.shared_memory(1, tmp_path / "absent").level is Level.FAIL


@pytest.mark.parametrize(
    ("soft", "level"), [(65536, Level.OK), (4096, Level.WARN), (256, Level.FAIL)]
)
def test_few_open_files_are_told(soft: int, level: Level, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, soft))
    found = machine.descriptors()
    assert found.level is level
    assert ("the hard limit" in found.fix) is (level is not Level.OK)


def test_a_disk_must_be_writable_and_have_room(tmp_path: Path) -> None:
    inside = tmp_path / "runs" / "deep"
    assert machine.disk(str(inside), needed=1).level is Level.OK
    assert "free_bytes" in machine.disk(str(inside), needed=10**18).text
    assert not list(tmp_path.iterdir())
    if Path("/proc/sys").is_dir():
        found = machine.disk("/proc/sys/runs", needed=1)
        assert found.level is Level.FAIL
        assert "cannot be written" in found.text


def test_a_clock_that_is_behind_our_files_is_a_failure(tmp_path: Path) -> None:
    file = tmp_path / "written_tomorrow.py"
    file.touch()
    os.utime(file, (time.time() + 86400,) * 2)
    found = machine.clock([file])
    assert found.level is Level.FAIL
    assert "before this code was written" in found.text
    assert machine.clock().level is not Level.FAIL


def sandbox(**changes: int) -> Finding:
    try:
        return services.sandbox(SandboxConfig(runs_per_server=0, **changes))
    except SandboxUnavailableError as error:
        pytest.skip(f"NO SANDBOX ON THIS MACHINE: {error}")


def test_a_program_is_really_run() -> None:
    found = sandbox()
    assert found.level is Level.OK
    assert "ran a program" in found.text


def test_a_program_that_cannot_say_it_is_a_failure() -> None:
    found = sandbox(output_bytes=1)
    assert found.level is Level.FAIL
    assert "print(6 * 7) output_limit" in found.text


def test_wandb_is_looked_for_only_where_a_run_would(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    assert services.tracking("offline").level is Level.OK
    assert services.tracking("disabled").level is Level.OK
    found = services.tracking("online")
    assert found.level is Level.FAIL
    assert "http://127.0.0.1:9 cannot be reached" in found.text


def test_nodes_must_write_and_agree_on_the_time() -> None:
    def answer(**changes: object) -> Answer:
        return Answer(**{"host": "b", "seconds_apart": 0.01, "arrived": True, **changes})  # type: ignore[arg-type]

    said: Callable[..., Finding] = compare
    assert said([answer(), answer(host="a")], run_dir="r").text == (
        "2 alike, r is shared, clocks agree to 0.01 s"
    )
    assert "what a writes" in said([answer(), answer(host="a", arrived=False)], run_dir="r").text
    late = said([answer(seconds_apart=-3.0)], run_dir="r")
    assert late.level is Level.WARN
    assert "3.0 s apart" in late.text
