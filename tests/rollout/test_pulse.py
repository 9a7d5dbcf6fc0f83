"""Engines that hang, beside engines that only take long."""

import asyncio
from collections.abc import Sequence

import pytest

from rollout.pulse import Pulse, until_stalled

SECONDS = 0.02


class Engine:
    """Answers with the given pulses in turn, and waits for ever or fails at the end of them."""

    def __init__(self, pulses: Sequence[Pulse], *, end: Exception | None = None) -> None:
        self.pulses = list(pulses)
        self.end = end

    async def read(self) -> Pulse:
        if self.pulses:
            return self.pulses.pop(0)
        if self.end is not None:
            raise self.end
        return await asyncio.Future()


async def test_an_engine_that_has_work_and_makes_no_step_hangs() -> None:
    engine = Engine([Pulse(3, 7)] * 100)
    found = await until_stalled(engine.read, seconds=SECONDS)
    assert found == "no step for 0.02 s with 3 requests under way"
    assert len(engine.pulses) == 100 - 21


async def test_an_engine_that_does_not_answer_hangs_whatever_it_did_before() -> None:
    engine = Engine([Pulse(0, 1), Pulse(1, 2)])
    assert await until_stalled(engine.read, seconds=SECONDS) == "no answer for 0.02 s"


async def test_a_long_generation_steps_and_does_not_hang() -> None:
    engine = Engine([Pulse(1, step) for step in range(200)], end=EOFError())
    with pytest.raises(EOFError):
        await until_stalled(engine.read, seconds=SECONDS)


async def test_an_engine_without_work_does_not_hang() -> None:
    engine = Engine([Pulse(0, 5)] * 200, end=EOFError())
    with pytest.raises(EOFError):
        await until_stalled(engine.read, seconds=SECONDS)


async def test_looks_before_the_last_step_do_not_count() -> None:
    pulses = [Pulse(1, 1)] * 19 + [Pulse(1, 2)] * 19 + [Pulse(0, 2)] + [Pulse(1, 2)] * 19
    with pytest.raises(EOFError):
        await until_stalled(Engine(pulses, end=EOFError()).read, seconds=SECONDS)
