"""Reads what programs left in a workspace, and follows no link; runs between programs, in the jail.

The upper layer of an overlay holds what was written: files as they are, a character device 0/0
where something was removed, and a mark on a folder that replaced another one.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

MOST_FOLDERS = 100
"""Folders inside one another that are read; each is an open descriptor."""

_OPAQUE = "user.overlay.opaque"

Emit = Callable[[dict[str, Any], bytes], None]


def answer(upper: int, merged: str, request: bytes, output: int) -> None:
    """Write the answer to a request: records, each a line of JSON and that many bytes.

    Args:
        upper: Descriptor of the upper layer.
        merged: Where the workspace is mounted.
        request: JSON: `{"do": "changes"}`, or `{"do": "read", "path": ..., "max_bytes": ...}`.
        output: Descriptor to write to.

    Raises:
        OSError: A file cannot be read; the reader has closed.
    """
    asked = json.loads(request)
    with open(output, "wb") as stream:
        emit = emitter(stream)
        if asked["do"] == "changes":
            for path, info, folder in entries(upper, ""):
                report(path, info, folder, emit)
        else:
            read(merged, asked["path"], asked["max_bytes"], emit)


def emitter(stream: BinaryIO) -> Emit:
    """Return what writes records to a stream."""

    def emit(record: dict[str, Any], content: bytes) -> None:
        line = json.dumps(record | {"length": len(content)}).encode()
        stream.write(line + b"\n" + content)

    return emit


def entries(folder: int, above: str) -> Iterator[tuple[str, os.stat_result, int]]:
    """Yield path, facts and the descriptor of its folder for everything below, folders first.

    What lies deeper than any repository's files is left out.
    """
    for name in sorted(os.listdir(folder)):
        info = os.stat(name, dir_fd=folder, follow_symlinks=False)
        yield above + name, info, folder
        if stat.S_ISDIR(info.st_mode) and above.count("/") < MOST_FOLDERS:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
            inner = os.open(name, flags, dir_fd=folder)
            try:
                yield from entries(inner, f"{above}{name}/")
            finally:
                os.close(inner)


def report(path: str, info: os.stat_result, folder: int, emit: Emit) -> None:
    """Emit what lies in a folder under the last part of a path.

    Args:
        path: The whole path, for the record.
        info: Facts of it, links not followed.
        folder: Descriptor of the folder.
        emit: Takes the record.

    Raises:
        OSError: It cannot be read.
    """
    name = path.rpartition("/")[2]
    record = {"path": path, "mode": stat.S_IMODE(info.st_mode)}
    if stat.S_ISREG(info.st_mode):
        with open(_open_file(name, folder), "rb") as file:
            emit(record | {"kind": "file"}, file.read())
    elif stat.S_ISLNK(info.st_mode):
        emit(record | {"kind": "link"}, os.fsencode(os.readlink(name, dir_fd=folder)))
    elif stat.S_ISDIR(info.st_mode):
        emit(record | {"kind": "replaced" if _is_opaque(name, folder) else "folder"}, b"")
    elif stat.S_ISCHR(info.st_mode) and info.st_rdev == 0:
        emit(record | {"kind": "removed"}, b"")
    else:
        emit(record | {"kind": "special"}, b"")


def _is_opaque(name: str, folder: int) -> bool:
    inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
    try:
        return os.getxattr(inner, _OPAQUE) == b"y"
    except OSError:
        return False
    finally:
        os.close(inner)


def read(merged: str, path: str, max_bytes: int, emit: Emit) -> None:
    """Emit one regular file of the merged view; every part of its path must be no link."""
    *parents, name = path.split("/")
    folder = os.open(merged, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for parent in parents:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
            inner = os.open(parent, flags, dir_fd=folder)
            os.close(folder)
            folder = inner
        with open(_open_file(name, folder), "rb") as file:
            info = os.fstat(file.fileno())
            if not stat.S_ISREG(info.st_mode):
                emit({"path": path, "mode": 0, "kind": "special"}, b"")
                return
            record = {"path": path, "mode": stat.S_IMODE(info.st_mode), "kind": "file"}
            emit(record | {"is_cut": info.st_size > max_bytes}, file.read(max_bytes))
    except OSError as error:
        emit({"path": path, "mode": 0, "kind": "missing", "error": error.strerror}, b"")
    finally:
        os.close(folder)


def _open_file(name: str, folder: int) -> int:
    return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
