import asyncio

import pytest

from cispo.arrivals import missing_after
from tests.fakes import FakeProgress


async def test_what_has_arrived_is_counted_and_what_is_missing_is_named() -> None:
    loop = asyncio.get_running_loop()
    arriving = {"worker 0": loop.create_future(), "worker 1": loop.create_future()}
    coming = list(arriving.values())

    class Watched(FakeProgress):
        def waiting(self, phase: str, what: str) -> None:
            super().waiting(phase, what)
            coming.pop(0).set_result(None)  # whenever the missing are named, one more arrives

    progress = Watched()
    assert await missing_after(arriving, phase="workers", progress=progress) == []
    assert progress.waited == ["worker 0, worker 1", "worker 1"]
    assert progress.events == ["start workers 2", "finish workers"]
    assert progress.done == {"workers": 2}


async def test_what_does_not_arrive_in_time_is_returned() -> None:
    loop = asyncio.get_running_loop()
    here, nowhere = loop.create_future(), loop.create_future()
    here.set_result(None)
    arriving = {"here": here, "nowhere": nowhere}
    assert await missing_after(arriving, phase="w", progress=None, seconds=0.01) == ["nowhere"]


async def test_a_failure_is_raised_as_soon_as_it_happens() -> None:
    loop = asyncio.get_running_loop()
    failed, nowhere = loop.create_future(), loop.create_future()
    failed.set_exception(RuntimeError("no sandbox"))
    with pytest.raises(RuntimeError, match="no sandbox"):
        await missing_after({"a": failed, "b": nowhere}, phase="w", progress=None)
