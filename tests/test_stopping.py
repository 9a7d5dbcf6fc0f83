import asyncio

import pytest

from cispo.stopping import StopRequest


async def test_work_that_is_done_first_is_returned() -> None:
    stop = StopRequest()

    async def work() -> int:
        return 7

    assert await stop.unless_asked(work()) == 7
    assert stop.is_heeded


async def test_a_request_cancels_the_work_and_waits_until_it_has_cleaned_up() -> None:
    stop = StopRequest()
    cleaned = []

    async def work() -> None:
        try:
            stop.ask("SIGTERM")
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append(True)

    assert await stop.unless_asked(work()) is None
    assert cleaned == [True]
    assert stop.reason == "SIGTERM"


async def test_work_that_is_done_when_the_stop_is_asked_for_is_kept() -> None:
    stop = StopRequest()

    async def work() -> int:
        stop.ask("SIGTERM")
        return 7

    assert await stop.unless_asked(work()) == 7


async def test_after_a_request_no_work_begins() -> None:
    stop = StopRequest()
    stop.ask("SIGTERM")
    stop.ask("SIGINT")

    async def work() -> int:
        raise AssertionError("began")

    assert await stop.unless_asked(work()) is None
    assert stop.reason == "SIGTERM"


async def test_an_error_of_the_work_is_raised() -> None:
    async def work() -> None:
        raise ValueError("bad")

    with pytest.raises(ValueError, match="bad"):
        await StopRequest().unless_asked(work())


async def test_a_cancellation_from_outside_reaches_the_work() -> None:
    began = asyncio.Event()
    ended = asyncio.Event()

    async def work() -> None:
        try:
            began.set()
            await asyncio.Event().wait()
        finally:
            ended.set()

    waiting = asyncio.create_task(StopRequest().unless_asked(work()))
    await began.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await ended.wait()
