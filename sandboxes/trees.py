"""Folders as archives that are named by their contents, to send them to other hosts."""

import hashlib
import os
import shutil
import stat
import tarfile
import tempfile
from pathlib import Path
from typing import IO

from sandboxes.workspace import give_away

_CHUNK_BYTES = 2**20


def pack(folder: Path) -> tuple[str, IO[bytes]]:
    """Return the name of a folder's contents and an archive of it; equal for equal contents.

    The caller closes the archive, which is at its start.

    Raises:
        OSError: It is no folder, or cannot be read.
    """
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is no folder")
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller's
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in sorted(folder.rglob("*")):
            archive.add(path, str(path.relative_to(folder)), recursive=False, filter=_bare)
    file.seek(0)
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK_BYTES):
        digest.update(chunk)
    file.seek(0)
    return digest.hexdigest(), file


def unpack(archive: Path, target: Path) -> None:
    """Make a folder of an archive, for jails to read and to change copies of.

    Nothing of it may lie outside of the folder, or lead there by a link. A second one that unpacks
    the same at the same time changes nothing.

    Raises:
        OSError: It does not fit.
        tarfile.TarError: It is no archive, or not of that kind.
    """
    made = Path(tempfile.mkdtemp(dir=target.parent, prefix="unpacking-"))
    try:
        with tarfile.open(archive) as opened:
            opened.extractall(made, filter="data")
        give_away(made)
        for path in (made, *made.rglob("*")):
            if not path.is_symlink():
                mode = stat.S_IMODE(path.stat().st_mode)
                path.chmod(mode | (0o755 if path.is_dir() else 0o644))
        try:
            made.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _bare(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Keep what a jail can have, and nothing of who made it and when."""
    if not (entry.isreg() or entry.isdir() or entry.issym()):
        return None
    if entry.isreg():
        entry.mode = 0o755 if entry.mode & stat.S_IXUSR else 0o644
    entry.mtime = 0
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


def is_name(text: str) -> bool:
    """Whether a text is the name of contents, and so a plain name of a file."""
    return len(text) == 64 and set(text) <= set("0123456789abcdef")


def free_bytes(folder: Path) -> int:
    """Return how much more a folder's disk takes."""
    space = os.statvfs(folder)
    return space.f_bavail * space.f_frsize
