import asyncio
import signal

import pytest

from cispo.errors import StalledError
from launch.interrupts import Interrupted, Interrupts


def make_interrupts() -> tuple[Interrupts, list[str]]:
    said: list[str] = []
    return Interrupts(said.append), said


async def test_a_signal_before_anything_is_heeded_ends_the_run_at_once() -> None:
    interrupts, said = make_interrupts()

    async def run() -> None:
        with interrupts.covering():
            interrupts.on_signal(signal.SIGTERM)
            await asyncio.Event().wait()

    with pytest.raises(Interrupted):
        await run()
    assert interrupts.signal is signal.SIGTERM
    assert len(said) == 1


async def test_a_signal_that_the_loop_heeds_cancels_nothing() -> None:
    interrupts, _ = make_interrupts()
    with interrupts.covering() as stop:
        assert await stop.unless_asked(asyncio.sleep(0, "groups")) == "groups"
        interrupts.on_signal(signal.SIGINT)
        assert await stop.unless_asked(asyncio.Event().wait()) is None
        assert stop.reason == "SIGINT"
        await asyncio.sleep(0)


async def test_after_a_signal_nothing_is_started_again() -> None:
    interrupts, _ = make_interrupts()
    interrupts.on_signal(signal.SIGTERM)
    with pytest.raises(Interrupted), interrupts.covering():
        raise AssertionError("began")


async def test_a_stall_ends_the_run_with_its_error_also_where_a_stop_is_heeded() -> None:
    interrupts, _ = make_interrupts()

    async def run() -> None:
        with interrupts.covering() as stop:
            await stop.unless_asked(asyncio.sleep(0))
            interrupts.end(StalledError("nothing has happened"))
            await asyncio.Event().wait()

    with pytest.raises(StalledError, match="nothing has happened"):
        await run()
    assert interrupts.loop is None


async def test_a_cancellation_of_somebody_else_stays_one() -> None:
    interrupts, _ = make_interrupts()

    async def run() -> None:
        with interrupts.covering():
            await asyncio.Event().wait()

    running = asyncio.create_task(run())
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
