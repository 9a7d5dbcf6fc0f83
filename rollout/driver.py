"""Keeps one engine stepping in a thread of its own, and hands its results to those who wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from cispo.types import PolicyVersion
from rollout.backends.base import Backend, EngineStatistics, Finished, Increment, Request
from rollout.pulse import Pulse

if TYPE_CHECKING:
    from cispo.weights.buckets import WeightBucket
    from rollout.scoring import Scores

T = TypeVar("T")

Event: TypeAlias = Increment | Finished
"""What becomes of a request: tokens of a member, where it streams, and a member's end."""


@dataclass(frozen=True, slots=True)
class Engine:
    """A backend with what goes with it.

    Attributes:
        backend: Samples.
        tokenizer: Of the policy.
        context_length: Tokens that a sequence may have, where that is known.
        score: Scores given tokens with the backend's weights; see `rollout.scoring`.
    """

    backend: Backend
    tokenizer: Any
    context_length: int | None = None
    score: Callable[[Sequence[int], int], Scores] | None = None


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
        is_streaming: Whether its caller wants tokens while they are sampled.
        remaining: Members that have not finished.
    """

    inbox: asyncio.Queue[Event | Exception]
    is_streaming: bool
    remaining: int


class EngineDriver:
    """Lets many callers share an engine that can have only one; build it with `start`.

    The engine lives in one thread, and all that touches it is a job of that thread, done in the
    order of the calls: requests come and go and weights change between two steps, never within one,
    and the event loop stays free. On which step a job falls does not matter to other sequences,
    because an engine's results do not depend on company.

    Attributes:
        tokenizer: The engine's.
        context_length: The engine's.
    """

    def __init__(self, engine: Engine, thread: ThreadPoolExecutor) -> None:
        self.tokenizer = engine.tokenizer
        self.context_length = engine.context_length
        self._backend = engine.backend
        self._score = engine.score
        self._thread = thread
        self._num_jobs = 0
        self._num_moves = 0
        self._pages_peak = 0
        self._load_seconds = 0.0
        self._pause_seconds = 0.0
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
            finished = [event async for event in events if isinstance(event, Finished)]
        return sorted(finished, key=lambda member: member.member)

    @asynccontextmanager
    async def open(self, *requests: Request) -> AsyncIterator[AsyncIterator[Event]]:
        """Run requests together; what is left of them when the caller leaves is aborted.

        Yields:
            What becomes of them, as it happens, until all are over; it raises whatever broke a step
            of the engine.

        Raises:
            ValueError: A request can never be served.
        """
        inbox: asyncio.Queue[Event | Exception] = asyncio.Queue()
        try:
            for request in requests:
                await self._start(request, inbox)
            yield _events(inbox, count=sum(len(request.seeds) for request in requests))
        finally:
            for request in requests:
                if self._running.pop(request.request_id, None) is not None:
                    await asyncio.shield(self._job(self._backend.abort, request.request_id))

    @property
    def is_busy(self) -> bool:
        """Whether requests are under way."""
        return bool(self._running)

    async def load_weights(self, version: PolicyVersion, buckets: Iterable[WeightBucket]) -> str:
        """Replace the weights between two steps; returns their checksum.

        Raises:
            WeightSyncError: What arrived is not what was sent.
        """
        return await self._job(self._load_weights, version, buckets)

    async def score(self, token_ids: Sequence[int], top_logprobs: int) -> Scores:
        """Score given tokens between two steps; see `rollout.scoring.score_tokens`.

        Raises:
            ValueError: This engine cannot.
        """
        if self._score is None:
            raise ValueError("this engine cannot score given tokens")
        return await self._job(self._score, token_ids, top_logprobs)

    async def load(self) -> Load:
        """Return how busy the engine is."""
        return await self._job(self._measure)

    def pulse(self) -> Pulse:
        """Return at once whether there is work and whether it moves; from any thread."""
        return Pulse(len(self._running) or int(self._num_jobs > 0), self._num_moves)

    def close(self) -> None:
        """Let the engine's thread end."""
        self._thread.shutdown(wait=False)

    async def _start(self, request: Request, inbox: asyncio.Queue[Event | Exception]) -> None:
        self._running[request.request_id] = _Running(inbox, request.stream, len(request.seeds))
        await self._job(self._backend.start, request)
        if self._stepping is None or self._stepping.done():
            self._stepping = asyncio.create_task(self._step_while_running())

    async def _step_while_running(self) -> None:
        while self._running:
            is_streaming = any(running.is_streaming for running in self._running.values())
            try:
                events = await self._job(self._advance, is_streaming)
            except Exception as error:  # whatever broke, those who wait must hear of it
                await self._fail_all(error)
            else:
                for event in events:
                    self._deliver(event)

    def _advance(self, is_streaming: bool) -> list[Event]:
        """Step until there is something to tell or another job waits; in the engine's thread."""
        while True:
            finished = self._backend.step()
            self._num_moves += 1
            self._pages_peak = max(self._pages_peak, self._backend.statistics.pages_used)
            increments = self._backend.increments() if is_streaming else []
            events: list[Event] = [*increments, *finished]
            if events or self._num_jobs > 1 or not self._backend.num_active:
                return events

    def _load_weights(self, version: PolicyVersion, buckets: Iterable[WeightBucket]) -> str:
        is_pause = self._backend.num_active > 0
        began = time.perf_counter()
        checksum = self._backend.load_weights(version, buckets)
        seconds = time.perf_counter() - began
        self._load_seconds += seconds
        self._pause_seconds += seconds * is_pause
        return checksum

    def _measure(self) -> Load:
        statistics = replace(
            self._backend.statistics,
            pages_peak=self._pages_peak,
            load_seconds=self._load_seconds,
            pause_seconds=self._pause_seconds,
        )
        return Load(self._backend.num_active, statistics)

    def _deliver(self, event: Event) -> None:
        running = self._running.get(event.request_id)
        if running is None:  # its caller left during the step
            return
        running.inbox.put_nowait(event)
        running.remaining -= isinstance(event, Finished)
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
            self._num_moves += 1


async def _events(inbox: asyncio.Queue[Event | Exception], *, count: int) -> AsyncIterator[Event]:
    """Read until `count` members have finished."""
    while count:
        event = await inbox.get()
        if isinstance(event, Exception):
            raise event
        count -= isinstance(event, Finished)
        yield event
