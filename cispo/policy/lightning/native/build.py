"""Compiles the C++ sources of this folder once for this machine, and loads them."""

import ctypes
import fcntl
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

from cispo.errors import ConfigError

_FOLDER = Path(__file__).parent
_FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=fast")
_LINK = ("-shared", "-fPIC", "-pthread")
_TIMEOUT_SECONDS = 600.0
_log = logging.getLogger(__name__)


class BuildError(Exception):
    """The kernels cannot be compiled or loaded; the message holds the compiler's own."""


def native_library() -> ctypes.CDLL | None:
    """Load the kernels, compiling them if no process did before.

    Returns:
        The library, or None on a machine that cannot build it; the log then says why, once.
    """
    library, _ = _attempt()
    return library


def require_native() -> ctypes.CDLL:
    """Load the kernels.

    Raises:
        ConfigError: This machine cannot build them; the message says why.
    """
    library, reason = _attempt()
    if library is None:
        raise ConfigError(
            f"policy.kernels=native: {reason}; install g++ or clang++, or choose torch"
        )
    return library


@lru_cache(maxsize=1)
def _attempt() -> tuple[ctypes.CDLL | None, str]:
    """Load this folder's kernels once a process; return why not where that fails."""
    try:
        return load_kernels(_FOLDER, cache=_cache(), compiler=_compiler()), ""
    except BuildError as error:
        _log.warning("no native kernels, so torch takes their place: %s", error)
        return None, str(error)


def load_kernels(folder: Path, *, cache: Path, compiler: str | None) -> ctypes.CDLL:
    """Load the library of a folder's C++ sources from the cache, building it where it is missing.

    A library is built beside its final place and renamed, so that nobody loads half a file. Of
    processes that start together one builds, and the others wait and load what it built.

    Args:
        folder: Holds the .cpp files, all of which are compiled, and their .h files.
        cache: Where libraries are kept, by what they were built from and for.
        compiler: The compiler's command, or None if there is none.

    Raises:
        BuildError: The sources do not compile here, or the cache cannot be written.
    """
    if compiler is None:
        raise BuildError("there is no C++ compiler: neither CXX, g++, clang++ nor c++ can be run")
    library = cache / f"{_identity(folder, compiler)}.so"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _alone(cache):
            if library.is_file():
                try:
                    return ctypes.CDLL(str(library))
                except OSError as error:
                    _log.warning("building %s again, which cannot be loaded: %s", library, error)
            _build(folder, library, compiler)
            return ctypes.CDLL(str(library))
    except OSError as error:
        raise BuildError(f"the kernels cannot be kept in {cache}: {error}") from error


def _build(folder: Path, library: Path, compiler: str) -> None:
    with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
        built = Path(scratch) / "kernels.so"
        sources = [str(source) for source in sorted(folder.glob("*.cpp"))]
        _run(compiler, *_FLAGS, *_LINK, *sources, "-o", str(built))
        built.replace(library)


@contextmanager
def _alone(cache: Path) -> Iterator[None]:
    """Let one process after another in; a lock of the kernel's, which ends with its process."""
    descriptor = os.open(cache, os.O_RDONLY)
    try:
        with suppress(OSError):  # a shared disk without locks: then each process builds for itself
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _compiler() -> str | None:
    """Command of the C++ compiler that the user named or that is installed."""
    names = filter(None, (os.environ.get("CXX"), "g++", "clang++", "c++"))
    return next(filter(None, map(shutil.which, names)), None)


def _cache() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "cispo-rl" / "native"


def _identity(folder: Path, compiler: str) -> str:
    """Hash of the sources, the flags, and the macros by which a compiler tells itself and the CPU.

    A cache on a shared disk thus never hands one machine's instructions to another.
    """
    digest = hashlib.sha256(repr((*_FLAGS, *_LINK)).encode())
    digest.update(_run(compiler, *_FLAGS, "-dM", "-E", "-x", "c++", os.devnull).encode())
    for source in sorted((*folder.glob("*.cpp"), *folder.glob("*.h"))):
        digest.update(source.name.encode() + b"\0" + source.read_bytes())
    return digest.hexdigest()[:32]


def _run(*command: str) -> str:
    """Run the compiler and return what it prints."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{command[0]} does not run: {error}") from error
    if done.returncode != 0:
        raise BuildError(f"{command[0]} fails: {done.stderr.strip()[:2000]}")
    return done.stdout
