"""Checksums of large files, and forcing them to disk, on several threads (stdlib only)."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_PIECE_BYTES = 16 * 2**20
_BUFFER_BYTES = 2**20


def digests(files: Sequence[Path]) -> list[str]:
    """Return a checksum of each file, which differs where a byte does.

    A file's checksum is the SHA-256 of the SHA-256 of its pieces, so that all threads have work
    even where all of the checkpoint is one file.

    Raises:
        OSError: A file cannot be read.
    """
    pieces = list(_pieces(files))
    wholes = [hashlib.sha256() for _ in files]
    with ThreadPoolExecutor(max_workers=_num_threads()) as pool:
        found = pool.map(lambda piece: _digest(files[piece[0]], start=piece[1]), pieces)
        for (index, _), digest in zip(pieces, found, strict=True):
            wholes[index].update(digest)
    return [whole.hexdigest() for whole in wholes]


def force_to_disk(paths: Iterable[Path]) -> None:
    """Return when files and folders are on disk and not only in memory.

    Raises:
        OSError: They cannot be written, for example because the disk is full.
    """
    with ThreadPoolExecutor(max_workers=_num_threads()) as pool:
        list(pool.map(_force, paths))


def _num_threads() -> int:
    return min(16, os.cpu_count() or 1)


def _pieces(files: Sequence[Path]) -> Iterator[tuple[int, int]]:
    """Index of the file and first byte of each piece."""
    for index, file in enumerate(files):
        for start in range(0, file.stat().st_size, _PIECE_BYTES):
            yield index, start


def _digest(file: Path, *, start: int) -> bytes:
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(_BUFFER_BYTES))
    with file.open("rb", buffering=0) as opened:
        opened.seek(start)
        left = _PIECE_BYTES
        while left and (size := opened.readinto(buffer[: min(left, len(buffer))])):
            digest.update(buffer[:size])
            left -= size
    return digest.digest()


def _force(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
