"""Waiting for what another thread or process does, with patience for a slow machine."""

import asyncio
import time
from collections.abc import Callable

PATIENCE_SECONDS = 120.0
"""Many times what anything takes that is waited for here; only a failure is that slow."""

_POLL_SECONDS = 0.01


async def until(is_so: Callable[[], bool], *, what: str) -> None:
    """Wait until `is_so` while the event loop runs; fail with `what` when it never is."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline, f"never: {what}"
        await asyncio.sleep(_POLL_SECONDS)


def wait_until(is_so: Callable[[], bool], *, what: str) -> None:
    """Wait until `is_so`; fail with `what` when it never is."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(_POLL_SECONDS)
