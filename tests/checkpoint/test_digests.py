"""A file's checksum differs where any byte does, also beyond its first piece."""

import hashlib
from pathlib import Path

from cispo.checkpoint.digests import digests

PIECE = 16 * 2**20


def by_hand(content: bytes) -> str:
    pieces = [content[i : i + PIECE] for i in range(0, len(content), PIECE)]
    return hashlib.sha256(b"".join(hashlib.sha256(p).digest() for p in pieces)).hexdigest()


def test_the_checksum_is_that_of_the_pieces_checksums(tmp_path: Path) -> None:
    contents = [b"", b"a", bytes(range(256)) * 4096, b"x" * PIECE, b"x" * PIECE + b"y"]
    files = [tmp_path / str(i) for i in range(len(contents))]
    for file, content in zip(files, contents, strict=True):
        file.write_bytes(content)
    assert digests(files) == [by_hand(content) for content in contents]


def test_one_bit_anywhere_changes_it(tmp_path: Path) -> None:
    content = bytearray(PIECE + 1000)
    file = tmp_path / "file"
    seen = set()
    for place in (None, 0, PIECE - 1, PIECE, PIECE + 999):
        if place is not None:
            content[place] ^= 1
        file.write_bytes(content)
        seen.update(digests([file]))
    assert len(seen) == 5
