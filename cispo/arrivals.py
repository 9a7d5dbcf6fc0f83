"""Waits for what starts side by side, and names what is missing meanwhile (stdlib only)."""

import asyncio
from collections.abc import Mapping
from typing import Any

from cispo.ports import Progress

_REPORT_SECONDS = 2.0


async def missing_after(
    arriving: Mapping[str, asyncio.Future[Any]],
    *,
    phase: str,
    progress: Progress | None,
    seconds: float | None = None,
) -> list[str]:
    """Wait until all have arrived, and return the names of those that have not in time.

    Args:
        arriving: What is waited for, by name.
        phase: Name of the phase.
        progress: Told how many have arrived and who is missing.
        seconds: Wall time to wait; None waits for ever.

    Raises:
        Exception: What the first one that failed raised.
    """
    loop = asyncio.get_running_loop()
    deadline = None if seconds is None else loop.time() + seconds
    waiting = set(arriving.values())
    if progress:
        progress.start(phase, len(waiting))
    while waiting and (deadline is None or loop.time() < deadline):
        if progress:
            progress.waiting(phase, ", ".join(_not_done(arriving)))
        left = _REPORT_SECONDS if deadline is None else deadline - loop.time()
        done, waiting = await asyncio.wait(
            waiting, timeout=min(left, _REPORT_SECONDS), return_when=asyncio.FIRST_COMPLETED
        )
        for arrived in done:
            arrived.result()
        if progress:
            progress.advance(phase, len(done))
    if progress:
        progress.finish(phase)
    return _not_done(arriving)


def _not_done(arriving: Mapping[str, asyncio.Future[Any]]) -> list[str]:
    return [name for name, future in arriving.items() if not future.done()]
