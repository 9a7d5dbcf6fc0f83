"""Names what is being waited for, at intervals, as long as it is (stdlib only)."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from cispo.ports import Progress


@asynccontextmanager
async def naming(
    progress: Progress, phase: str, describe: Callable[[], str], *, every_seconds: float = 1.0
) -> AsyncIterator[None]:
    """Tell `progress` what is being waited for, from the first interval to the end of the block.

    Args:
        progress: Shows it.
        phase: A phase that has started.
        describe: Names it now, with its age; an empty text changes nothing.
        every_seconds: The interval.
    """

    async def report() -> None:
        while True:
            await asyncio.sleep(every_seconds)
            if text := describe():
                progress.waiting(phase, text)

    reporter = asyncio.create_task(report())
    try:
        yield
    finally:
        reporter.cancel()
        await asyncio.gather(reporter, return_exceptions=True)
