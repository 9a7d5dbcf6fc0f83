"""Waiting on the event loop for any of many things to change."""

import asyncio
import contextlib
import time
from collections.abc import Callable


class Bell:
    """Wakes one waiter."""

    def __init__(self) -> None:
        """Make it silent."""
        self._rung = asyncio.Event()

    def ring(self) -> None:
        """Wake the waiter, who looks at what has changed."""
        self._rung.set()

    async def sleep(self, seconds: float) -> None:
        """Wait for a ring, or for this long."""
        self._rung.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._rung.wait()

    async def wait(self, is_done: Callable[[], bool], *, seconds: float) -> None:
        """Wait until something is true, or for this long."""
        deadline = time.monotonic() + seconds
        while not is_done() and (left := deadline - time.monotonic()) > 0:
            await self.sleep(left)
