"""Keeps the rollout actors alive: starts them, names those that are missing, replaces the lost."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from cispo.arrivals import missing_after
from cispo.errors import RolloutError, WeightSyncError
from cispo.lost_actors import cause_of, is_lost
from cispo.ports import Progress
from cispo.types import PolicyVersion
from rollout.pulse import until_stalled

if TYPE_CHECKING:
    from cispo.weights.collective import Meeting
    from cispo.weights.sync import Fetch

_PHASE = "rollout actors"
_REASONS_TOLD = 3
_log = logging.getLogger(__name__)


class Source(Protocol):
    """Where actors come from; see `rollout.actor_source`."""

    def create(self, name: str) -> Any:
        """Ask for an actor and return its handle; it may not be there yet."""

    def kill(self, handle: Any) -> None:
        """End an actor; its calls fail at once."""

    def cancel(self, call: Any) -> None:
        """Tell an actor that nobody waits for a call any more."""

    def wants(self) -> str:
        """Say what an actor needs and what there is."""


@dataclass(slots=True, eq=False)
class Member:
    """A living actor.

    Attributes:
        name: For messages.
        handle: Ray's handle of a `RolloutActor`.
        outstanding: Rollouts that it was asked for and has not delivered.
        version: Weights that it has, None for those that it loaded from disk.
        num_lost_before: Actors in its place that were lost in a row, none of which delivered.
        loss: How it was lost; empty while it lives.
        watch: Looks whether it hangs.
    """

    name: str
    handle: Any
    outstanding: int = 0
    version: PolicyVersion | None = None
    num_lost_before: int = 0
    loss: str = ""
    watch: asyncio.Task[None] | None = None


class Roster:
    """The living actors of a pool; a new one joins only with the newest weights.

    A place whose actors are lost `max_attempts` times in a row before one delivers stays vacant
    until the next weights, with which it is tried again. The pool goes on with the others.

    Args:
        source: Where actors come from.
        num_actors: Places.
        max_attempts: Starts of an actor, and losses in a row, until its place is left vacant.
        startup_seconds: Wall time that an actor may take to start.
        stall_seconds: Wall time without a step after which a busy actor hangs; 0 waits for ever.

    Attributes:
        members: The living, in the order in which they joined.
        faults: How often what went wrong: `engine_deaths`, `engine_hangs`, `engine_failed_starts`.
    """

    def __init__(
        self,
        source: Source,
        *,
        num_actors: int,
        max_attempts: int,
        startup_seconds: float,
        stall_seconds: float,
    ) -> None:
        self._source = source
        self._num_actors = num_actors
        self._max_attempts = max_attempts
        self._startup_seconds = startup_seconds
        self._stall_seconds = stall_seconds
        self._numbers = itertools.count()
        self._arriving: dict[asyncio.Task[None], str] = {}
        self._weights: tuple[PolicyVersion, Fetch] | None = None
        self._has_newest = asyncio.Event()  # also while there were none yet
        self._has_newest.set()
        self._reasons: deque[str] = deque(maxlen=_REASONS_TOLD)
        self._is_up = False
        self.members: list[Member] = []
        self.faults: Counter[str] = Counter()

    async def start(self, progress: Progress | None) -> None:
        """Start all actors and wait for them.

        Raises:
            RolloutError: Some could not start; the message names them.
            ConfigError: The engine cannot be built as configured.
        """
        self._fill_vacancies()
        starting = {name: arriving for arriving, name in self._arriving.items()}
        await missing_after(starting, phase=_PHASE, progress=progress)
        self._is_up = True

    async def least_loaded(self) -> Member:
        """Return the actor with the fewest outstanding rollouts, waiting for one if need be.

        Raises:
            RolloutError: None is left and none is starting.
        """
        while not self.members:
            if not self._arriving:
                raise RolloutError(f"no rollout actor is left: {'; '.join(self._reasons)}")
            await asyncio.wait(self._arriving, return_when=asyncio.FIRST_COMPLETED)
        return min(self.members, key=lambda member: member.outstanding)

    def lose(self, member: Member, error: BaseException) -> str:
        """Replace an actor that a call found dead; returns how it was lost."""
        self._replace(member, "engine_deaths", f"died: {cause_of(error)}")
        return f"{member.name} {member.loss}"

    def withdraw(self) -> None:
        """Forget the newest weights; who joins waits for those that will be announced."""
        self._weights = None
        self._has_newest.clear()

    def announce(self, version: PolicyVersion, fetch: Fetch) -> None:
        """Remember how the newest weights are had, for `load` and for those who join later."""
        self._weights = (version, fetch)
        self._has_newest.set()
        self._fill_vacancies()

    async def load(self, member: Member) -> str:
        """Give one actor the newest weights and return its checksum of them."""
        assert self._weights is not None, "no weights were announced"
        version, fetch = self._weights
        tickets = await fetch()
        checksum: str = await member.handle.load_weights.remote(version, list(tickets))
        member.version = version
        return checksum

    async def hear(
        self, member: Member, version: PolicyVersion, meeting: Meeting, rank: int
    ) -> str:
        """Let one actor take part in a broadcast and return its checksum of what came."""
        checksum: str = await member.handle.hear_weights.remote(version, meeting, rank)
        member.version = version
        return checksum

    def cancel(self, call: Any) -> None:
        """Tell an actor that nobody waits for a call any more."""
        self._source.cancel(call)

    def stop(self) -> None:
        """Kill all actors."""
        for arriving in self._arriving:
            arriving.cancel()
        for member in self.members:
            self._end(member)
        self.members.clear()

    def _replace(self, member: Member, fault: str, loss: str) -> None:
        """Do so once, however many notice the loss."""
        if member not in self.members:
            return
        self.members.remove(member)
        member.loss = loss
        self.faults[fault] += 1
        self._end(member)  # it may only be out of reach, and would hold on to its resources
        num_lost = member.num_lost_before + 1
        if num_lost <= self._max_attempts:
            _log.warning("%s %s; another actor starts in its place", member.name, loss)
            self._bring_up(num_lost)
        else:
            self._give_up(
                f"{member.name} {loss}, as did the {num_lost - 1} before it, and none delivered"
            )

    def _fill_vacancies(self) -> None:
        for _ in range(self._num_actors - len(self.members) - len(self._arriving)):
            self._bring_up(0)

    def _bring_up(self, num_lost_before: int) -> None:
        name = f"rollout-{next(self._numbers)}"
        arriving = asyncio.create_task(self._join(name, num_lost_before), name=name)
        self._arriving[arriving] = name
        arriving.add_done_callback(self._arrived)

    def _arrived(self, arriving: asyncio.Task[None]) -> None:
        self._arriving.pop(arriving)
        if not arriving.cancelled() and (error := arriving.exception()) is not None:
            self.faults["engine_failed_starts"] += 1
            self._give_up(str(error))

    def _give_up(self, reason: str) -> None:
        self._reasons.append(reason)
        if self._is_up:
            _log.warning("%s; its place stays vacant until the next weights", reason)

    async def _join(self, name: str, num_lost_before: int) -> None:
        attempts = self._max_attempts
        for attempt in range(1, attempts + 1):
            try:
                member = await self._ready_member(name)
            except Exception as error:
                if not is_lost(error):
                    raise
                cause = cause_of(error)
                if attempt == attempts:
                    raise RolloutError(
                        f"rollout actor {name} died in each of {attempts} starts, the last time: "
                        f"{cause}"
                    ) from error
                self.faults["engine_failed_starts"] += 1
                _log.warning("%s died in start %d of %d: %s", name, attempt, attempts, cause)
            else:
                member.num_lost_before = num_lost_before
                self.members.append(member)
                if self._stall_seconds:
                    member.watch = asyncio.create_task(self._watch(member), name=f"watch {name}")
                return

    async def _watch(self, member: Member) -> None:
        try:
            stall = await until_stalled(member.handle.pulse.remote, seconds=self._stall_seconds)
        except Exception as error:
            if not is_lost(error):
                raise
            self.lose(member, error)
        else:
            self._replace(member, "engine_hangs", f"hung: {stall}")

    async def _ready_member(self, name: str) -> Member:
        member = Member(name, self._source.create(name))
        try:
            async with asyncio.timeout(self._startup_seconds):
                await member.handle.start.remote()
                await self._bring_up_to_date(member)
        except BaseException as error:
            self._source.kill(member.handle)
            if isinstance(error, TimeoutError):
                raise RolloutError(
                    f"rollout actor {name} was not ready after {self._startup_seconds:g} s; "
                    f"{self._source.wants()}"
                ) from error
            raise
        return member

    async def _bring_up_to_date(self, member: Member) -> None:
        """Load the newest weights, and newer ones where they come meanwhile."""
        while True:
            await self._has_newest.wait()
            newest = self._weights
            if newest is None or member.version == newest[0]:
                return
            try:
                await self.load(member)
            except WeightSyncError:
                if self._weights is newest:
                    raise  # it was not withdrawn in the midst of it

    def _end(self, member: Member) -> None:
        if member.watch is not None and member.watch is not asyncio.current_task():
            member.watch.cancel()
        self._source.kill(member.handle)
