"""A workspace that is a copy of its base, where nothing may be mounted; tells what differs.

For containers, whose process 1 has no capabilities. Between programs nothing else is alive, so that
what is found here does not change while it is read. No link is followed.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import stat

from sandboxes.inside.changes import MOST_FOLDERS, Emit, emitter, entries, read, report

_CHUNK_BYTES = 1 << 20
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


def copy_tree(base: str, target: str, *, covered: frozenset[str], path: str = "") -> None:
    """Copy all below a folder into one that is there, with modes and links as they are.

    Args:
        base: The folder.
        target: Where to; folders in it that are there stay as they are.
        covered: Paths that something else lies on.
        path: What of it to copy.

    Raises:
        OSError: Something cannot be read, or does not fit.
    """
    for entry in os.scandir(os.path.join(base, path)):
        inner = os.path.join(path, entry.name)
        place = os.path.join(target, inner)
        if inner in covered:
            continue
        if entry.is_symlink():
            os.symlink(os.readlink(entry.path), place)
        elif entry.is_dir():
            if not os.path.isdir(place):
                os.mkdir(place)
            copy_tree(base, target, covered=covered, path=inner)
        else:
            shutil.copyfile(entry.path, place)
            os.chmod(place, stat.S_IMODE(entry.stat().st_mode))


def answer(base: str, target: str, request: bytes) -> bytes:
    """Return the answer to a request of `sandboxes.inside.changes.answer`.

    Args:
        base: What the workspace began as.
        target: The workspace.
        request: `{"do": "changes", "max_bytes": ...}`, which ends the answer soon after so many, or
            `{"do": "read", "path": ..., "max_bytes": ...}`.

    Raises:
        OSError: A file cannot be read.
    """
    asked = json.loads(request)
    stream = io.BytesIO()
    if asked["do"] == "read":
        read(target, asked["path"], asked["max_bytes"], emitter(stream))
        return stream.getvalue()
    before, after = (os.open(folder, os.O_RDONLY | os.O_DIRECTORY) for folder in (base, target))
    try:
        _compare(before, after, stream, max_bytes=asked["max_bytes"])
    finally:
        os.close(before)
        os.close(after)
    return stream.getvalue()


def _compare(before: int, after: int, stream: io.BytesIO, *, max_bytes: int) -> None:
    """Write what was made or changed, then what was removed."""
    emit = emitter(stream)
    _open_up(after)
    for path, info, folder in entries(after, ""):
        if not _is_same(path, info, folder, before):
            report(path, info, folder, emit)
        if stream.tell() > max_bytes:
            return
    gone: list[str] = []
    for path, _, _ in entries(before, ""):
        is_below = bool(gone) and path.startswith(f"{gone[-1]}/")
        if not is_below and _facts(path, after) is None:
            gone.append(path)
    for path in gone:
        _tell_removed(path, emit)


def _open_up(folder: int, depth: int = 0) -> None:
    """Let our user, whose they are, read all files and folders that programs have locked."""
    for name in os.listdir(folder):
        info = os.stat(name, dir_fd=folder, follow_symlinks=False)
        is_folder = stat.S_ISDIR(info.st_mode)
        wanted = 0o700 if is_folder else 0o400
        is_locked = info.st_mode & wanted != wanted and info.st_uid == os.getuid()
        if is_locked and (is_folder or stat.S_ISREG(info.st_mode)):
            os.chmod(name, stat.S_IMODE(info.st_mode) | wanted, dir_fd=folder)
        if is_folder and depth <= MOST_FOLDERS:
            inner = os.open(name, _FOLDER, dir_fd=folder)
            try:
                _open_up(inner, depth + 1)
            finally:
                os.close(inner)


def _tell_removed(path: str, emit: Emit) -> None:
    emit({"path": path, "mode": 0, "kind": "removed"}, b"")


def _is_same(path: str, info: os.stat_result, folder: int, before: int) -> bool:
    """Whether the base has the same there; a folder is what it holds."""
    known = _facts(path, before)
    if known is None or stat.S_IFMT(known.st_mode) != stat.S_IFMT(info.st_mode):
        return False
    if stat.S_ISDIR(info.st_mode):
        return True
    name = path.rpartition("/")[2]
    if stat.S_ISLNK(info.st_mode):
        return os.readlink(path, dir_fd=before) == os.readlink(name, dir_fd=folder)
    if not stat.S_ISREG(info.st_mode) or info.st_size != known.st_size:
        return False
    if stat.S_IMODE(info.st_mode) != stat.S_IMODE(known.st_mode):
        return False
    return _have_same_bytes((name, folder), (path, before))


def _facts(path: str, folder: int) -> os.stat_result | None:
    """Return the facts of a path below a folder, or None where it is not there, or behind a link.

    Each part is opened by itself: hostile paths can be longer than the kernel takes, and links.
    """
    *parents, name = path.split("/")
    held = os.dup(folder)
    try:
        for parent in parents:
            inner = os.open(parent, _FOLDER, dir_fd=held)
            os.close(held)
            held = inner
        return os.stat(name, dir_fd=held, follow_symlinks=False)
    except OSError:
        return None
    finally:
        os.close(held)


def _have_same_bytes(one: tuple[str, int], other: tuple[str, int]) -> bool:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
    with (
        open(os.open(one[0], flags, dir_fd=one[1]), "rb") as mine,
        open(os.open(other[0], flags, dir_fd=other[1]), "rb") as theirs,
    ):
        while chunk := mine.read(_CHUNK_BYTES):
            if theirs.read(len(chunk)) != chunk:
                return False
    return True
