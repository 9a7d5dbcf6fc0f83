"""Keeps one engine stepping in a thread of its own, and hands its results to those who wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from cispo.types import PolicyVersion
from rollout.backends.base import Backend, EngineStatistics, Finished, Request

if TYPE_CHECKING:
    from cispo.weights.buckets import WeightBucket

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Engine:
    """A backend with the tokenizer that goes with it."""

    backend: Backend
    tokenizer: Any


@dataclass(frozen=True, slots=True)
class Load:
    """How busy an engine is, and what it has done.

    Attributes:
        num_active: Sequences that are running or waiting.
        statistics: Counts since the start.
    """

    num_active: int
    statistics: EngineStatistics


@dataclass(slots=True, eq=False)
class _Running:
    """A request that is not over.

    Attributes:
        inbox: Where its caller reads.
        remaining: Members that have not finished.
    """

    inbox: asyncio.Queue[Finished | Exception]
    remaining: int


class EngineDriver:
    """Lets many callers share an engine that can have only one; build it with `start`.

    The engine lives in one thread, and all that touches it is a job of that thread, done in the
    order of the calls: requests come and go and weights change between two steps, never within one,
    and the event loop stays free. On which step a job falls does not matter to other sequences,
    because an engine's results do not depend on company.

    Attributes:
        tokenizer: The engine's.
    """

    def __init__(self, engine: Engine, thread: ThreadPoolExecutor) -> None:
        self.tokenizer = engine.tokenizer
        self._backend = engine.backend
        self._thread = thread
        self._num_jobs = 0
        self._running: dict[int, _Running] = {}
        self._last_request_id = 0
        self._stepping: asyncio.Task[None] | None = None

    @classmethod
    async def start(cls, make_engine: Callable[[], Engine]) -> EngineDriver:
        """Build the engine in the thread that will run it.

        Raises:
            ConfigError: The engine cannot be built as configured.
        """
        thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
        try:
            engine = await asyncio.get_running_loop().run_in_executor(thread, make_engine)
        except BaseException:
            thread.shutdown(wait=False)
            raise
        return cls(engine, thread)

    def new_request_id(self) -> int:
        """Return an id that no other request of this engine has."""
        self._last_request_id += 1
        return self._last_request_id

    async def sample(self, request: Request) -> list[Finished]:
        """Run a request to its end; returns its members in order.

        Raises:
            ValueError: The request can never be served.
            Exception: Whatever broke a step of the engine.
        """
        async with self.open(request) as events:
            finished = [event async for event in events]
        return sorted(finished, key=lambda member: member.member)

    @asynccontextmanager
    async def open(self, *requests: Request) -> AsyncIterator[AsyncIterator[Finished]]:
        """Run requests together; what is left of them when the caller leaves is aborted.

        Yields:
            What becomes of them, as it happens, until all are over; it raises whatever broke a step
            of the engine.

        Raises:
            ValueError: A request can never be served.
        """
        inbox: asyncio.Queue[Finished | Exception] = asyncio.Queue()
        try:
            for request in requests:
                await self._start(request, inbox)
            yield _events(inbox, count=sum(len(request.seeds) for request in requests))
        finally:
            for request in requests:
                if self._running.pop(request.request_id, None) is not None:
                    await asyncio.shield(self._job(self._backend.abort, request.request_id))

    async def load_weights(self, version: PolicyVersion, buckets: Sequence[WeightBucket]) -> str:
        """Replace the weights between two steps; returns their checksum.

        Raises:
            WeightSyncError: What arrived is not what was sent.
        """
        return await self._job(self._backend.load_weights, version, buckets)

    async def load(self) -> Load:
        """Return how busy the engine is."""
        return await self._job(
            lambda: Load(self._backend.num_active, replace(self._backend.statistics))
        )

    def close(self) -> None:
        """Let the engine's thread end."""
        self._thread.shutdown(wait=False)

    async def _start(self, request: Request, inbox: asyncio.Queue[Finished | Exception]) -> None:
        self._running[request.request_id] = _Running(inbox, len(request.seeds))
        await self._job(self._backend.start, request)
        if self._stepping is None or self._stepping.done():
            self._stepping = asyncio.create_task(self._step_while_running())

    async def _step_while_running(self) -> None:
        while self._running:
            try:
                events = await self._job(self._advance)
            except Exception as error:  # whatever broke, those who wait must hear of it
                await self._fail_all(error)
            else:
                for event in events:
                    self._deliver(event)

    def _advance(self) -> list[Finished]:
        """Step until there is something to tell or another job waits; in the engine's thread."""
        while True:
            events = self._backend.step()
            if events or self._num_jobs > 1 or not self._backend.num_active:
                return events

    def _deliver(self, event: Finished) -> None:
        running = self._running.get(event.request_id)
        if running is None:  # its caller left during the step
            return
        running.inbox.put_nowait(event)
        running.remaining -= 1
        if running.remaining == 0:
            del self._running[event.request_id]

    async def _fail_all(self, error: Exception) -> None:
        failed, self._running = self._running, {}
        for request_id in failed:
            await self._job(self._backend.abort, request_id)
        for running in failed.values():
            running.inbox.put_nowait(error)

    async def _job(self, call: Callable[..., T], *args: Any) -> T:
        """Run a call in the engine's thread, after those that were asked for before it."""
        self._num_jobs += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, call, *args)
        finally:
            self._num_jobs -= 1


async def _events(
    inbox: asyncio.Queue[Finished | Exception], *, count: int
) -> AsyncIterator[Finished]:
    """Read until `count` members have finished."""
    while count:
        event = await inbox.get()
        if isinstance(event, Exception):
            raise event
        count -= 1
        yield event
