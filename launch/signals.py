"""Hands signals to a thread, so that they are heeded also while the main thread is stuck."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

HEEDED = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def signals_to(heed: Callable[[signal.Signals], None]) -> Iterator[None]:
    """Call `heed` in a thread of its own for every SIGINT and SIGTERM while the block runs.

    The interpreter's own handlers run in the main thread, between two of its instructions: never,
    where it waits in C code. What it writes to a wakeup descriptor comes at once. Only the main
    thread may enter the block.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = {number: signal.signal(number, _leave_to_the_thread) for number in HEEDED}
    woken_before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

    def read() -> None:
        while numbers := os.read(reading, 64):
            for number in numbers:
                if number in HEEDED:
                    heed(signal.Signals(number))

    thread = threading.Thread(target=read, name="signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(woken_before)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(writing)
        thread.join()
        os.close(reading)


def _leave_to_the_thread(number: int, frame: object) -> None:
    """Take the place of the default action, which would end the process."""
