import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cispo.policy.lightning.native.build import BuildError, load_kernels
from tests.waiting import wait_until

COMPILER = shutil.which("g++") or shutil.which("clang++")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler is installed")
LOAD = """
import sys
from pathlib import Path
from cispo.policy.lightning.native.build import load_kernels
_, sources, cache, compiler = sys.argv
print(load_kernels(Path(sources), cache=Path(cache), compiler=compiler).answer())
"""


@pytest.fixture
def sources(tmp_path):
    folder = tmp_path / "sources"
    folder.mkdir()
    (folder / "number.h").write_text("constexpr int number = 41;\n")
    (folder / "number.cpp").write_text(
        '#include "number.h"\nextern "C" int answer() { return number + 1; }\n'
    )
    return folder


@needs_compiler
def test_a_library_is_built_once_and_then_taken_from_the_cache(sources, tmp_path):
    cache = tmp_path / "cache"
    assert load_kernels(sources, cache=cache, compiler=COMPILER).answer() == 42
    (built,) = cache.iterdir()
    written = built.stat().st_mtime_ns
    assert load_kernels(sources, cache=cache, compiler=COMPILER).answer() == 42
    assert [entry.stat().st_mtime_ns for entry in cache.iterdir()] == [written]


@needs_compiler
def test_a_changed_header_builds_another_library(sources, tmp_path):
    cache = tmp_path / "cache"
    load_kernels(sources, cache=cache, compiler=COMPILER)
    (sources / "number.h").write_text("constexpr int number = 6;\n")
    assert load_kernels(sources, cache=cache, compiler=COMPILER).answer() == 7
    assert len(list(cache.iterdir())) == 2


@needs_compiler
def test_a_broken_file_in_the_cache_is_built_again(sources, tmp_path):
    cache = tmp_path / "cache"
    load_kernels(sources, cache=cache, compiler=COMPILER)
    (built,) = cache.iterdir()
    built.unlink()  # a loaded library must not be overwritten in place
    built.write_bytes(b"not a library")
    command = [sys.executable, "-c", LOAD, str(sources), str(cache), COMPILER]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "42"
    assert "cannot be loaded" in done.stderr


@needs_compiler
def test_of_two_processes_one_builds_and_the_other_waits_for_its_library(sources, tmp_path):
    calls, gate, compiler = (tmp_path / name for name in ("calls", "gate", "compiler"))
    compiler.write_text(  # notes what it is asked, and builds once both processes are there
        f"""#!/bin/sh
case "$*" in
  *-shared*) echo build >> {calls}; while [ ! -e {gate} ]; do sleep 0.02; done ;;
  *) echo identify >> {calls} ;;
esac
exec {COMPILER} "$@"
"""
    )
    compiler.chmod(0o755)
    cache = tmp_path / "cache"
    command = [sys.executable, "-c", LOAD, str(sources), str(cache), str(compiler)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    wait_until(
        lambda: calls.exists() and len(calls.read_text().split()) == 3,
        what="one builds, and the other is there",
    )
    gate.touch()
    assert [process.communicate(timeout=250)[0].strip() for process in both] == ["42", "42"]
    assert sorted(calls.read_text().split()) == ["build", "identify", "identify"]
    assert [entry.suffix for entry in cache.iterdir()] == [".so"]


def test_a_machine_without_a_compiler_is_told_so(sources, tmp_path):
    with pytest.raises(BuildError, match="no C\\+\\+ compiler"):
        load_kernels(sources, cache=tmp_path, compiler=None)


@needs_compiler
def test_the_compilers_own_message_explains_a_failed_build(sources, tmp_path):
    (sources / "number.h").write_text("constexpr int nubmer = 41;\n")
    with pytest.raises(BuildError, match=r"number. was not declared|undeclared identifier"):
        load_kernels(sources, cache=tmp_path / "cache", compiler=COMPILER)


@needs_compiler
def test_a_cache_that_cannot_be_written_is_named(sources, tmp_path):
    cache = tmp_path / "cache"
    cache.write_text("a file, where a folder is needed")
    with pytest.raises(BuildError, match=f"cannot be kept in {cache}"):
        load_kernels(sources, cache=cache, compiler=COMPILER)


def test_without_a_compiler_auto_falls_back_and_native_is_refused(tmp_path):
    command = """
from cispo.errors import ConfigError
from cispo.policy.lightning.native.build import native_library, require_native
assert native_library() is None
assert native_library() is None
try:
    require_native()
except ConfigError as error:
    print(error)
"""
    environment = {**os.environ, "PATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "CXX": ""}
    done = subprocess.run(
        [sys.executable, "-c", command], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("policy.kernels=native: there is no C++ compiler")
    assert done.stderr.count("no native kernels") == 1


def test_the_packages_own_kernels_are_found_beside_the_module():
    folder = Path(sys.modules[load_kernels.__module__].__file__).parent
    assert {"attention.cpp", "gemm.h"} <= {entry.name for entry in folder.iterdir()}
