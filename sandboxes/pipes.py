"""The read end of a pipe that a hostile program writes to: bounded, and never blocking."""

import asyncio
import os
from collections.abc import Callable

_CHUNK_BYTES = 65536


class CappedReader:
    """Collects what comes out of a pipe on the running event loop, up to a number of bytes."""

    def __init__(
        self,
        descriptor: int,
        *,
        max_bytes: int,
        on_change: Callable[[], None],
        tells_each_chunk: bool = False,
    ) -> None:
        """Take over the descriptor.

        Args:
            descriptor: Read end of the pipe.
            max_bytes: Bytes that are kept; one more ends the reading.
            on_change: Called when the first bytes come, at the end of the stream and at the limit.
            tells_each_chunk: Whether `on_change` is called for everything that comes.
        """
        self.has_overflowed = False
        self.is_finished = False
        self._descriptor = descriptor
        self._max_bytes = max_bytes
        self._on_change = on_change
        self._tells_each_chunk = tells_each_chunk
        self._data = bytearray()
        self._loop = asyncio.get_running_loop()
        os.set_blocking(descriptor, False)
        self._loop.add_reader(descriptor, self._read)

    @property
    def data(self) -> bytes:
        """What has come so far, cut at the limit."""
        return bytes(self._data[: self._max_bytes])

    def close(self) -> None:
        """Stop reading."""
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _read(self) -> None:
        try:
            chunk = os.read(self._descriptor, _CHUNK_BYTES)
        except BlockingIOError:
            return
        self._data += chunk
        self.is_finished = not chunk
        self.has_overflowed = len(self._data) > self._max_bytes
        if self.is_finished or self.has_overflowed:
            self.close()
            self._on_change()
        elif self._tells_each_chunk or len(self._data) == len(chunk):
            self._on_change()
