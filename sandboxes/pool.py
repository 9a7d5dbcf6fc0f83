"""Several sandboxes as one: bounded, with lost runs tried elsewhere and sick members set aside.

A program cannot bring a member into quarantine: losses only make a member suspect, and what decides
is the member's own probe.
"""

import asyncio
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from cispo.errors import SandboxUnavailableError
from sandboxes.base import ExecResult, Limits, Outcome, Program, Sandbox, lost

_LONGEST_QUARANTINE = 16  # times the shortest
_log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class _Member:
    """One sandbox and how it has been doing.

    Attributes:
        name: What messages call it.
        sandbox: It.
        num_running: Programs in it now.
        num_lost: Losses since its last success.
        is_sick: Whether it gets no programs.
        reason: Why.
    """

    name: str
    sandbox: Sandbox
    num_running: int = 0
    num_lost: int = 0
    is_sick: bool = False
    reason: str = ""


class SandboxPool:
    """Runs each program on the healthy member with the least to do."""

    def __init__(
        self,
        sandboxes: Mapping[str, Sandbox],
        *,
        max_concurrent: int,
        max_attempts: int = 2,
        losses_to_probe: int = 3,
        quarantine_seconds: float = 10.0,
    ) -> None:
        """Take the members.

        Args:
            sandboxes: Members by name.
            max_concurrent: Programs that run at once on each member; more wait.
            max_attempts: Members on which a program is tried.
            losses_to_probe: Losses in a row after which a member is probed.
            quarantine_seconds: Wall time between two probes of a sick member, doubled each time, up
                to 16 times that; also how long a program waits while all members are sick.
        """
        if not sandboxes:
            raise ValueError("sandboxes is empty; a pool needs at least one")
        self._members = [_Member(name, sandbox) for name, sandbox in sandboxes.items()]
        self._max_concurrent = max_concurrent
        self._max_attempts = max_attempts
        self._losses_to_probe = losses_to_probe
        self._quarantine_seconds = quarantine_seconds
        self._changed = asyncio.Condition()
        self._probes: set[asyncio.Task[None]] = set()

    @property
    def sick(self) -> Mapping[str, str]:
        """Members that get no programs, with the reason."""
        return {member.name: member.reason for member in self._members if member.is_sick}

    async def run(self, program: Program, limits: Limits) -> ExecResult:
        """Run one program; see `sandboxes.base.Sandbox`. One that is lost is tried elsewhere."""
        tried: list[_Member] = []
        result = lost("every sandbox is sick")
        for _ in range(min(self._max_attempts, len(self._members))):
            member = await self._take(tried)
            if member is None:
                break
            tried.append(member)
            try:
                result = await member.sandbox.run(program, limits)
            finally:
                await self._give_back(member)
            self._judge(member, result)
            if result.outcome is not Outcome.LOST:
                break
        return result

    async def probe(self) -> tuple[str, ...]:
        """Probe all members; those that fail are set aside, and all may not.

        Raises:
            SandboxUnavailableError: Every member failed; the message is that of the first.
        """
        probes = [self._try_probe(member) for member in self._members]
        outcomes = await asyncio.gather(*probes)
        failures = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
        for member, outcome in zip(self._members, outcomes, strict=True):
            if isinstance(outcome, SandboxUnavailableError):
                self._set_aside(member, str(outcome))
        if len(failures) == len(self._members):
            await self.close()
            raise failures[0]
        return next(outcome for outcome in outcomes if isinstance(outcome, tuple))

    async def close(self) -> None:
        """End the members."""
        for task in self._probes:
            task.cancel()
        await asyncio.gather(*self._probes, return_exceptions=True)
        for member in self._members:
            await member.sandbox.close()

    async def _take(self, tried: Collection[_Member]) -> _Member | None:
        """Wait for a healthy member with room that was not tried; None where there is none."""
        given_up = False
        async with self._changed:
            while True:
                healthy = [m for m in self._members if not m.is_sick and m not in tried]
                free = [m for m in healthy if m.num_running < self._max_concurrent]
                if free:
                    member = min(free, key=lambda m: m.num_running)
                    member.num_running += 1
                    return member
                if not healthy and (tried or given_up):
                    return None
                try:
                    patience = None if healthy else self._quarantine_seconds
                    async with asyncio.timeout(patience):
                        await self._changed.wait()
                except TimeoutError:
                    given_up = True

    async def _give_back(self, member: _Member) -> None:
        member.num_running -= 1
        async with self._changed:
            self._changed.notify_all()

    def _judge(self, member: _Member, result: ExecResult) -> None:
        if result.outcome is not Outcome.LOST:
            member.num_lost = 0
            return
        member.num_lost += 1
        if member.num_lost >= self._losses_to_probe and not member.is_sick:
            reason = result.stderr.decode(errors="replace").strip().rpartition("\n")[2]
            self._set_aside(member, f"{member.num_lost} runs were lost, the last: {reason}")

    def _set_aside(self, member: _Member, reason: str) -> None:
        member.is_sick = True
        member.reason = reason
        _log.warning("sandbox %s is set aside: %s", member.name, reason)
        task = asyncio.create_task(self._nurse(member))
        self._probes.add(task)
        task.add_done_callback(self._probes.discard)

    async def _nurse(self, member: _Member) -> None:
        """Probe a member until it is well."""
        wait = self._quarantine_seconds
        while isinstance(outcome := await self._try_probe(member), Exception):
            member.reason = str(outcome)
            await asyncio.sleep(wait)
            wait = min(2 * wait, _LONGEST_QUARANTINE * self._quarantine_seconds)
        _log.warning("sandbox %s is back", member.name)
        member.is_sick = False
        member.num_lost = 0
        async with self._changed:
            self._changed.notify_all()

    async def _try_probe(self, member: _Member) -> tuple[str, ...] | SandboxUnavailableError:
        try:
            return await member.sandbox.probe()
        except SandboxUnavailableError as error:
            return error
