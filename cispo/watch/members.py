"""Reads parts of files that are many gzip files in a row (stdlib only)."""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cispo.errors import RunFolderError

MOST_BYTES = 2**28
"""Text of one member; more than that is no file of rollouts."""

_CHUNK_BYTES = 2**16
_GZIP = 31


@dataclass(frozen=True, slots=True)
class Member:
    """Where a member lies in its file, in compressed bytes."""

    start: int
    length: int


def read_members(path: Path) -> Iterator[tuple[Member, bytes]]:
    """Yield all members with their text, one at a time; one that is torn off ends the file.

    Raises:
        OSError: The file cannot be read.
        RunFolderError: It is not a gzip file, or a member is larger than `MOST_BYTES`.
    """
    with path.open("rb") as file:
        start, pending = 0, file.read(_CHUNK_BYTES)
        while pending:
            inflating, text = zlib.decompressobj(wbits=_GZIP), bytearray()
            while pending and not inflating.eof:
                text += _inflated(inflating, pending, path)
                if len(text) > MOST_BYTES:
                    raise RunFolderError(f"{path}: more than {MOST_BYTES} bytes at {start}")
                pending = inflating.unused_data or file.read(_CHUNK_BYTES)
            if not inflating.eof:
                return
            end = file.tell() - len(pending)
            yield Member(start, end - start), bytes(text)
            start = end


def read_member(path: Path, member: Member) -> bytes:
    """Return the text of one member.

    Raises:
        OSError: The file cannot be read.
        RunFolderError: There is no such member any more.
    """
    with path.open("rb") as file:
        file.seek(member.start)
        return _inflated(zlib.decompressobj(wbits=_GZIP), file.read(member.length), path)


def _inflated(inflating: "zlib._Decompress", data: bytes, path: Path) -> bytes:
    try:
        return inflating.decompress(data, MOST_BYTES + 1)
    except zlib.error as error:
        raise RunFolderError(f"{path}: not what it was written as ({error})") from error
