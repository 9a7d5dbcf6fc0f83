"""Tells an engine that hangs from one that works long (loads no torch, no ray)."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

_LOOKS = 20


@dataclass(frozen=True, slots=True)
class Pulse:
    """What can be seen of an engine without waiting for it.

    Attributes:
        num_requests: Requests under way, or one where it has other work to do.
        num_moves: Grows with every step of the engine and with all else that it completes.
    """

    num_requests: int
    num_moves: int


async def until_stalled(read: Callable[[], Awaitable[Pulse]], *, seconds: float) -> str:
    """Look at an engine for as long as it lives; return how it hangs once it does.

    It hangs when it has work and completes no step, or does not answer, in so many looks in a row
    that they take this long. The age of a request plays no part: a long generation steps. Looks are
    counted and not the clock read, so that a process that was itself stopped, or starved, blames
    nobody for that time.

    Args:
        read: Reads the engine's pulse.
        seconds: Wall time without a step that is a hang; more than any one step takes.

    Raises:
        Exception: What `read` raised: mostly, the engine is gone.
    """
    pause = seconds / _LOOKS
    last: Pulse | None = None
    num_quiet = 0
    reading: asyncio.Future[Pulse] | None = None
    try:
        while num_quiet < _LOOKS:
            reading = reading or asyncio.ensure_future(read())
            done, _ = await asyncio.wait({reading}, timeout=pause)
            if not done:
                num_quiet += 1
                continue
            now, reading = reading.result(), None
            moved = last is None or now.num_moves != last.num_moves or not now.num_requests
            num_quiet = 0 if moved else num_quiet + 1
            last = now
            await asyncio.sleep(pause)
    finally:
        if reading is not None:
            reading.cancel()
    if reading is not None:
        return f"no answer for {seconds:g} s"
    assert last is not None
    return f"no step for {seconds:g} s with {last.num_requests} requests under way"
