"""Waiting for a bell."""

import asyncio

import pytest

from sandboxes.bell import Bell
from tests.waiting import PATIENCE_SECONDS


async def test_who_is_cancelled_in_the_moment_of_a_ring_is_cancelled() -> None:
    bell = Bell()
    waiting = asyncio.create_task(bell.wait(lambda: False, seconds=PATIENCE_SECONDS))
    await asyncio.sleep(0)
    bell.ring()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_a_ring_wakes_and_so_does_the_end_of_the_time() -> None:
    bell = Bell()
    is_done = False
    waiting = asyncio.create_task(bell.wait(lambda: is_done, seconds=PATIENCE_SECONDS))
    await asyncio.sleep(0)
    is_done = True
    bell.ring()
    await waiting
    await bell.wait(lambda: False, seconds=0.01)
