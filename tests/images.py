"""A container image made of this machine's own Python, so that no registry is needed."""

import io
import shutil
import subprocess
import tarfile
from functools import cache
from pathlib import Path

NAME = "localhost/cispo-test-python:3"

_PYTHON = Path("/usr/bin/python3")
_TOOLS = ("sh", "cat", "true", "sleep", "id", "ls", "bash", "git", "touch")
_SKIPPED = {"test", "tests", "idlelib", "tkinter", "ensurepip", "lib2to3", "__pycache__"}


class NoImageError(Exception):
    """There is no engine that runs here, or nothing to make an image of."""


@cache
def python_image() -> tuple[str, str]:
    """Return engine and name of the image, made if it is not there.

    Raises:
        NoImageError: It cannot be had.
    """
    engine = shutil.which("podman") or shutil.which("docker")
    if engine is None or not _PYTHON.exists():
        raise NoImageError("neither podman nor docker, or no system Python to make an image of")
    kind = Path(engine).name
    if _call([engine, "image", "inspect", NAME]) != 0:
        imported = subprocess.run(
            [engine, "import", "-", NAME], input=_root(), capture_output=True, check=False
        )
        if imported.returncode != 0:
            raise NoImageError(f"{kind} does not run here: {imported.stderr.decode()[-300:]}")
    return kind, NAME


def _call(command: list[str]) -> int:
    return subprocess.run(command, capture_output=True, check=False).returncode


def _root() -> bytes:
    """Return a root folder with Python, its library and a shell."""
    files = {_PYTHON.resolve(): "usr/bin/python3"}
    for name in _TOOLS:
        path = shutil.which(name, path="/usr/bin:/bin")
        if path is not None:
            files[Path(path).resolve()] = f"usr/bin/{name}"
    folder = _standard_library()
    sources = [*files, *folder.glob("lib-dynload/*.so")]
    for library in _libraries(sources):
        files[library.resolve()] = str(library).lstrip("/")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("tmp", "dev", "proc", "sys", "etc", "root", "var"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            archive.addfile(entry)
        for link, target in (("bin", "usr/bin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")):
            entry = tarfile.TarInfo(link)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)
        for source, name in files.items():
            place = name if name.startswith("usr/") else f"usr/{name}"
            archive.add(source, place)
        archive.add(folder, str(folder).lstrip("/"), filter=_wanted)
    return buffer.getvalue()


def _standard_library() -> Path:
    code = "import os; print(os.path.dirname(os.__file__))"
    command = [str(_PYTHON), "-I", "-S", "-c", code]
    return Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())


def _libraries(sources: list[Path]) -> set[Path]:
    listed = subprocess.run(
        ["ldd", *map(str, sources)], capture_output=True, text=True, check=False
    ).stdout
    words = {word for line in listed.splitlines() for word in line.split()}
    return {Path(word) for word in words if word.startswith("/") and not word.endswith(":")}


def _wanted(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if _SKIPPED & set(entry.name.split("/")) else entry
