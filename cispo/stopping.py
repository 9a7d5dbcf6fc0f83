"""A request to end a run early, heeded where nothing is half done (stdlib only)."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class StopRequest:
    """Asks a loop to end when the iteration that is being learned is complete.

    Attributes:
        reason: Why it was asked, or None while it was not.
        is_heeded: Whether a loop looks at the request; before, only a cancellation ends the run.
    """

    def __init__(self) -> None:
        self.reason: str | None = None
        self.is_heeded = False
        self._asked = asyncio.Event()

    def ask(self, reason: str) -> None:
        """Ask; only in the thread of the event loop."""
        self.reason = self.reason or reason
        self._asked.set()

    async def unless_asked(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Return what the work returns; or cancel it and return None once a stop is asked for.

        Work that is done is never thrown away.

        Raises:
            Exception: Whatever the work raised.
        """
        self.is_heeded = True
        if self._asked.is_set():
            work.close()
            return None
        working = asyncio.ensure_future(work)
        asked = asyncio.ensure_future(self._asked.wait())
        try:
            await asyncio.wait((working, asked), return_when=asyncio.FIRST_COMPLETED)
            if working.done():
                return working.result()
            working.cancel()
            await asyncio.wait((working,))
            return None
        finally:
            working.cancel()
            asked.cancel()
