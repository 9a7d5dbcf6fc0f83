"""Ends what the event loop runs from other threads: in order, by an error, or at once."""

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from cispo.errors import CispoError
from cispo.stopping import StopRequest
from launch.processes import end_now


class Interrupted(Exception):  # noqa: N818 - asked for, not a fault
    """A signal ended the run before its first iteration."""


class Interrupts:
    """What may end a run from outside of its event loop.

    Attributes:
        signal: The first that came, or None.
        loop: The event loop under way, or None.

    Args:
        say: Tells the user, in a line.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.signal: signal.Signals | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self._say = say
        self._error: CispoError | None = None
        self._end: Callable[[], None] = lambda: None

    @contextmanager
    def covering(self) -> Iterator[StopRequest]:
        """Within a coroutine, let interrupts end its task; yields what the loop should heed.

        Raises:
            Interrupted: A signal came before the loop heeded anything.
            CispoError: What `end` was given.
        """
        if self.signal is not None:
            raise Interrupted
        stop = StopRequest()
        task = asyncio.current_task()
        assert task is not None, "only coroutines can be covered"

        def end() -> None:
            if self._error is None and self.signal is not None:
                stop.ask(self.signal.name)
            if self._error is not None or not stop.is_heeded:
                task.cancel()

        self._end, self.loop = end, asyncio.get_running_loop()
        try:
            yield stop
        except asyncio.CancelledError:
            if self._error is not None:
                raise self._error from None
            if self.signal is not None:
                raise Interrupted from None
            raise
        finally:
            self.loop = None

    def on_signal(self, number: signal.Signals) -> None:
        """Ask the run to end in order, and end it at once when asked again."""
        if self.signal is not None:
            end_now(128 + number, f"{number.name} again: ended at once, without a checkpoint")
        self.signal = number
        self._say(
            f"{number.name}: sampling is given up, what is being learned is completed and kept in "
            "a checkpoint; once more ends the run at once"
        )
        self._call_end()

    def end(self, error: CispoError) -> None:
        """End the run with an error, as soon as its event loop runs."""
        self._error = error
        self._call_end()

    def _call_end(self) -> None:
        loop = self.loop
        if loop is not None:
            loop.call_soon_threadsafe(self._end)
