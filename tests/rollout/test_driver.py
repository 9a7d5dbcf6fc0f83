"""The loop around an engine: many callers, one engine, one thread."""

import asyncio
import threading
import time
from collections.abc import Sequence

import pytest

from cispo.errors import ConfigError, DivergedError
from cispo.types import PolicyVersion
from rollout.backends.base import Finished, Increment, Request, SamplingParams, StopRules
from rollout.backends.scripted import ScriptedBackend
from rollout.driver import Engine, EngineDriver
from tests.waiting import PATIENCE_SECONDS, until

STOP = 1


class WatchedBackend(ScriptedBackend):
    """Answers each request with tokens of its own, and notes who calls what when.

    Attributes:
        calls: Names of calls in their order.
        threads: Threads that they came from.
        fails_at: The step that raises; 0 is none.
        may_step: Steps wait for it.
    """

    def __init__(self, *, length: int = 8, seconds_per_step: float = 0.0) -> None:
        def script(request: Request, member: int) -> Sequence[int]:
            return [10 * request.prompt[0] + member] * length + [STOP]

        rules = StopRules(token_ids=frozenset({STOP}))
        super().__init__(script, rules, seconds_per_step=seconds_per_step)
        self.calls: list[str] = []
        self.threads: set[int] = set()
        self.fails_at = 0
        self.may_step = threading.Event()
        self.may_step.set()

    def _note(self, call: str) -> None:
        self.calls.append(call)
        self.threads.add(threading.get_ident())

    def start(self, request: Request) -> None:
        self._note("start")
        if request.prompt[0] == 0:
            raise ValueError("a prompt of nothing")
        super().start(request)

    def abort(self, request_id: int) -> None:
        self._note("abort")
        super().abort(request_id)

    def step(self) -> list[Finished]:
        self._note("step")
        if self.calls.count("step") == self.fails_at:
            raise DivergedError("not finite")
        assert self.may_step.wait(PATIENCE_SECONDS), "nobody let the step go on"
        return super().step()

    def load_weights(self, version: PolicyVersion, buckets: object) -> str:
        self._note("load_weights")
        self._version = version
        return "checksum"


async def drive(backend: WatchedBackend) -> EngineDriver:
    return await EngineDriver.start(lambda: Engine(backend, tokenizer=None))


def asked(
    driver: EngineDriver, prompt: int, *, members: int = 1, budget: int = 100, stream: bool = False
) -> Request:
    return Request(
        request_id=driver.new_request_id(),
        task_id=f"task-{prompt}",
        prompt=(prompt,),
        seeds=tuple(range(members)),
        sampling=SamplingParams(max_new_tokens=budget),
        stream=stream,
    )


async def active(driver: EngineDriver, count: int) -> None:
    """Wait until so many sequences were in a step."""
    while (load := await driver.load()).num_active < count or not load.statistics.decode_steps:  # noqa: ASYNC110
        await asyncio.sleep(0)


async def test_callers_share_steps_and_get_their_own() -> None:
    backend = WatchedBackend()
    driver = await drive(backend)
    found = await asyncio.gather(*(driver.sample(asked(driver, p, members=3)) for p in (1, 2, 3)))
    answers = [[member.token_ids[0] for member in members] for members in found]
    assert answers == [[10, 11, 12], [20, 21, 22], [30, 31, 32]]
    assert backend.calls.count("step") <= 10
    assert len(backend.threads) == 1
    assert threading.get_ident() not in backend.threads
    assert (await driver.load()).num_active == 0
    driver.close()


async def test_the_event_loop_is_free_during_a_step() -> None:
    backend = WatchedBackend(length=1)
    backend.may_step.clear()
    driver = await drive(backend)
    sampling = asyncio.create_task(driver.sample(asked(driver, 1)))
    await until(lambda: "step" in backend.calls, what="the step begins")
    backend.may_step.set()  # nobody could, if the step held the loop
    assert len(await sampling) == 1
    driver.close()


async def test_tokens_come_while_they_are_sampled() -> None:
    driver = await drive(WatchedBackend())
    async with driver.open(asked(driver, 1, members=2, stream=True), asked(driver, 2)) as events:
        kinds = [(type(event), event.request_id, event.member) async for event in events]
    for member in (0, 1):
        assert kinds.count((Increment, 1, member)) == 9
        assert kinds.index((Finished, 1, member)) > kinds.index((Increment, 1, member))
    assert [kind for kind in kinds if kind[1] == 2] == [(Finished, 2, 0)]
    driver.close()


async def test_a_caller_who_leaves_takes_the_request_along() -> None:
    backend = WatchedBackend(length=100_000, seconds_per_step=0.002)
    driver = await drive(backend)
    async with driver.open(asked(driver, 1, budget=90_000, stream=True)) as events:
        await anext(events)
        assert (await driver.load()).num_active == 1
    assert (await driver.load()).num_active == 0
    cancelled = asyncio.create_task(driver.sample(asked(driver, 1, members=4, budget=90_000)))
    await active(driver, 4)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    assert (await driver.load()).num_active == 0
    driver.close()


async def test_a_caller_who_is_cancelled_before_the_start_leaves_nothing_behind() -> None:
    backend = WatchedBackend(length=100_000)
    backend.may_step.clear()
    driver = await drive(backend)
    staying = asyncio.create_task(driver.sample(asked(driver, 1, budget=10)))
    await until(lambda: "step" in backend.calls, what="the first step begins")
    leaving = asyncio.create_task(driver.sample(asked(driver, 2, budget=90_000)))
    await until(lambda: driver._num_jobs == 2, what="its start waits for the end of the step")
    leaving.cancel()
    backend.may_step.set()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert len((await staying)[0].token_ids) == 10
    assert (await driver.load()).num_active == 0
    driver.close()


async def test_a_request_that_is_refused_takes_its_companions_along() -> None:
    driver = await drive(WatchedBackend(length=100_000))
    with pytest.raises(ValueError, match="a prompt of nothing"):
        async with driver.open(asked(driver, 1, budget=90_000), asked(driver, 0)):
            pass
    assert (await driver.load()).num_active == 0
    assert len(await driver.sample(asked(driver, 3, budget=2))) == 1
    driver.close()


async def test_a_step_that_fails_is_heard_by_all_and_ends_nothing_else() -> None:
    backend = WatchedBackend()
    backend.fails_at = 4
    driver = await drive(backend)
    streaming = driver.open(asked(driver, 1, stream=True))
    async with streaming as events:
        sampling = asyncio.create_task(driver.sample(asked(driver, 2)))
        with pytest.raises(DivergedError):
            async for _ in events:
                pass
        with pytest.raises(DivergedError):
            await sampling
    assert (await driver.load()).num_active == 0
    (member,) = await driver.sample(asked(driver, 3))
    assert member.token_ids[0] == 30
    driver.close()


async def test_weights_change_between_steps_of_running_requests() -> None:
    backend = WatchedBackend()
    backend.may_step.clear()
    driver = await drive(backend)
    sampling = asyncio.create_task(driver.sample(asked(driver, 1)))
    await until(lambda: "step" in backend.calls, what="the first step begins")
    loading = asyncio.create_task(driver.load_weights(PolicyVersion(7), []))
    await until(lambda: driver._num_jobs == 2, what="the weights wait for the end of the step")
    backend.may_step.set()
    assert await loading == "checksum"
    (member,) = await sampling
    assert (member.oldest_version, member.newest_version) == (0, 7)
    assert backend.calls[:4] == ["start", "step", "load_weights", "step"]
    driver.close()


async def test_an_engine_that_cannot_be_built_says_why() -> None:
    def broken() -> Engine:
        raise ConfigError("policy.path=x: no such folder")

    with pytest.raises(ConfigError, match=r"policy\.path=x"):
        await EngineDriver.start(broken)


async def test_an_idle_engine_does_not_step() -> None:
    backend = WatchedBackend()
    driver = await drive(backend)
    await driver.sample(asked(driver, 1))
    num_calls = len(backend.calls)
    time.sleep(0.05)  # noqa: ASYNC251 - whatever would step, would step now
    await asyncio.sleep(0.01)
    assert len(backend.calls) == num_calls
    driver.close()
