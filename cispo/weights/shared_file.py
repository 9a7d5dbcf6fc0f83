"""Weights through files in a folder that learner and engines share, mapped into memory to be read.

The files of a version stay for engines that join late, until the next version is written. A learner
that was killed leaves its files behind; the next one on its machine removes them.
"""

import os
import re
import shutil
import socket
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from cispo.errors import WeightSyncError
from cispo.types import PolicyVersion
from cispo.weights.buckets import WeightBucket
from cispo.weights.outlet import TwoBuffers

_FOLDER = "cispo-weights-{host}-{pid}"


@dataclass(frozen=True, slots=True)
class BucketFile:
    """A bucket whose contents are in a file.

    Attributes:
        path: The file.
        header: All else of the bucket.
    """

    path: Path
    header: WeightBucket

    def fetch(self) -> WeightBucket:
        """Map the file; see `cispo.weights.outlet.Ticket`."""
        expected = self.header.num_bytes
        try:
            found = self.path.stat().st_size
            if found != expected:
                raise WeightSyncError(
                    f"{self.header.label}: {self.path} has {found} bytes, not {expected}"
                )
            buffer = np.memmap(self.path, dtype=np.uint8, mode="r") if expected else np.zeros(0)
        except OSError as error:
            raise WeightSyncError(f"{self.header.label} cannot be read: {error}") from error
        return replace(self.header, buffer=np.asarray(buffer, dtype=np.uint8))

    def discard(self) -> None:
        """Remove the file, and the folder with its last one."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
            self.path.parent.rmdir()


@dataclass(frozen=True, slots=True)
class SharedFolder:
    """The route; see `cispo.weights.outlet.Route`.

    Attributes:
        folder: What learner and engines share.
    """

    folder: Path

    def outlet(self) -> "FileOutlet":
        """Open the learner's end."""
        return FileOutlet(self.folder)


class FileOutlet:
    """Writes buckets to files; see `cispo.weights.outlet.Outlet`.

    Args:
        folder: What learner and engines share.

    Raises:
        WeightSyncError: No files can be made there.
    """

    def __init__(self, folder: Path) -> None:
        _remove_orphans(folder)
        self.fault: str | None = None
        self._folder = folder / _FOLDER.format(host=socket.gethostname(), pid=os.getpid())
        self._buffers = TwoBuffers()
        self._version = PolicyVersion(0)

    def begin(self, version: PolicyVersion) -> None:
        """Remove the version before, and be ready for this one.

        Raises:
            WeightSyncError: No files can be made there.
        """
        self.close()
        try:
            self._folder.mkdir(parents=True, mode=0o700)
        except OSError as error:
            raise WeightSyncError(f"weights.folder={self._folder.parent}: {error}") from error
        self._version = version

    def allocate(self, num_bytes: int) -> Tensor:
        """Return one of two buffers, which are free once they are written."""
        return self._buffers.allocate(num_bytes)

    def send(self, bucket: WeightBucket) -> BucketFile:
        """Write a bucket, all of it or nothing.

        Raises:
            WeightSyncError: It does not fit, for one.
        """
        path = self._folder / f"version-{self._version:06d}-bucket-{bucket.index:05d}"
        unfinished = path.with_suffix(".tmp")
        try:
            with unfinished.open("wb", buffering=0) as file:
                rest = bucket.buffer.data
                while rest:
                    rest = rest[file.write(rest) :]
            unfinished.replace(path)
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            raise WeightSyncError(
                f"{bucket.label} cannot be written, {bucket.num_bytes} bytes: {error}; make room, "
                "or choose another weights.folder or weights.transport"
            ) from error
        return BucketFile(path, bucket.without_buffer())

    def close(self) -> None:
        """Remove all files; who has mapped one keeps it."""
        shutil.rmtree(self._folder, ignore_errors=True)


def _remove_orphans(folder: Path) -> None:
    """Remove what killed processes of this machine left behind."""
    pattern = re.escape(_FOLDER.format(host=socket.gethostname(), pid="")) + r"(\d+)"
    for path in folder.glob(_FOLDER.format(host="*", pid="*")):
        found = re.fullmatch(pattern, path.name)
        if found and not Path("/proc", found[1]).exists():
            shutil.rmtree(path, ignore_errors=True)
