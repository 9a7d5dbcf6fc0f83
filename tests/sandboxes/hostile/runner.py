"""Runs all attempts against one sandbox and says, for each, what the host saw that it should not.

`python -m tests.sandboxes.hostile.runner KIND BWRAP` prints that as JSON, so that the suite can be
run as another user.
"""

import asyncio
import dataclasses
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from sandboxes.base import ExecResult, Limits, Outcome, Program, Sandbox
from sandboxes.bubblewrap import NO_CGROUPS, BubblewrapSandbox
from sandboxes.jail_command import SANDBOX_UID
from sandboxes.warm import WarmSandbox
from tests.sandboxes.hostile import bombs, crowds, escape, protocol, surface, survivors, theft
from tests.sandboxes.hostile.attempt import PRELUDE, Attempt
from tests.sandboxes.hostile.host import SECRETS, Host, all_processes, processes_named, wake
from tests.sandboxes.hostile.sight import Sight, differences, look_at
from tests.sandboxes.hostile.usage import num_tasks, password_lines, resident_bytes
from tests.waiting import PATIENCE_SECONDS

ATTEMPTS = [
    *escape.ATTEMPTS,
    *theft.ATTEMPTS,
    *bombs.ATTEMPTS,
    *survivors.ATTEMPTS,
    *protocol.ATTEMPTS,
    *surface.ATTEMPTS,
    *crowds.ATTEMPTS,
]
LIMITS = Limits(
    cpu_seconds=4.0,
    wall_seconds=20.0,
    memory_bytes=160 * 2**20,
    max_processes=16,
    output_bytes=2**20,
    tmp_bytes=4 * 2**20,
)
QUIET = ("theft", "bomb", "survivor")
_NUM_LANES = 4
_HOLD_SECONDS = 100.0
_GRACE_SECONDS = PATIENCE_SECONDS
_SHORT_SECONDS = 5.0
_ENDED = "it ended as "
_LOST = f"{_ENDED}{Outcome.LOST}"
_STARVED = f"{_LOST} at its wall limit"
_MEMORY_SLACK = 1.2


class Suite:
    """All attempts against one sandbox."""

    def __init__(
        self,
        sandbox: Sandbox,
        *,
        has_cgroup: bool,
        jail_uid: int,
        num_lanes: int,
        quiet: Sequence[str] = QUIET,
        silence_seconds: float = _GRACE_SECONDS,
    ) -> None:
        """Set up the host.

        Args:
            sandbox: What is attacked.
            has_cgroup: Whether it counts memory and processes of all processes together.
            jail_uid: User that its programs run as, as the host sees it.
            num_lanes: Attempts at once.
            quiet: Kinds that run before the others, one after the other in this order.
            silence_seconds: How long processes may take to die with their program.
        """
        self._lanes = asyncio.Semaphore(num_lanes)
        self._sandbox = sandbox
        self._has_cgroup = has_cgroup
        self._quiet = quiet
        self._silence_seconds = silence_seconds
        self._host = Host(jail_uid=jail_uid)
        self._harmless: Sight | None = None
        self._number = 0

    async def run(
        self, attempts: Sequence[Attempt] = ATTEMPTS, *, in_the_open: bool = False
    ) -> dict[str, list[str]]:
        """Return what the host saw of each attempt that it should not have, by its name.

        Args:
            attempts: Which ones.
            in_the_open: Whether these do no lasting harm without any sandbox.
        """
        found: dict[str, list[str]] = {}
        try:
            harmless = Attempt(name="nothing", kind="none", code="hold()", holds=True)
            found["nothing"] = await self._try(harmless)
            if not in_the_open:
                self._refuse_to_harm_this_machine()
            chosen = [attempt for attempt in attempts if self._applies(attempt)]
            for attempt in chosen:
                if attempt.kind in self._quiet:
                    found[attempt.name] = await self._try(attempt)
            others = [attempt for attempt in chosen if attempt.kind not in self._quiet]
            seen = await asyncio.gather(*map(self._try_in_lane, others))
        finally:
            self._host.close()
        return found | {attempt.name: s for attempt, s in zip(others, seen, strict=True)}

    async def _try_in_lane(self, attempt: Attempt) -> list[str]:
        async with self._lanes:
            return await self._try(attempt)

    def _refuse_to_harm_this_machine(self) -> None:
        """Go no further where an attempt to kill all that it sees would reach everybody."""
        sight = self._harmless
        if sight is None or sight.namespaces["pid"] == os.readlink("/proc/self/ns/pid"):
            raise RuntimeError("the sandbox has no process namespace; the attempts stop here")

    def _applies(self, attempt: Attempt) -> bool:
        return not attempt.needs_x86 or os.uname().machine == "x86_64"

    async def _try(self, attempt: Attempt) -> list[str]:
        limits = dataclasses.replace(LIMITS, **_whole(attempt.limits))
        if attempt.holds:
            limits = dataclasses.replace(limits, wall_seconds=2 * _HOLD_SECONDS)
        seen = await self._try_within(attempt, limits)
        is_short = limits.wall_seconds < _SHORT_SECONDS
        if seen and seen[0].startswith(_LOST if is_short else _STARVED):
            # A busy machine may lose it; what loses itself will do so again.
            patient = dataclasses.replace(limits, wall_seconds=10 * limits.wall_seconds)
            seen = await self._try_within(attempt, patient)
        return seen

    async def _try_within(self, attempt: Attempt, limits: Limits) -> list[str]:
        self._number += 1
        marker = f"t{os.getpid() % 10**6}n{self._number}"
        code = (PRELUDE + attempt.code).format(marker=marker, **self._host.targets)
        program = Program(argv=("python3", "-I", "-S", "-c", code))
        older = all_processes()
        running = asyncio.create_task(self._sandbox.run(program, limits))
        seen = await self._watch(attempt, marker, running, limits, besides=older)
        started = time.monotonic()
        result = await running
        seen += self._judge(attempt, result, limits)
        if time.monotonic() - started > _GRACE_SECONDS:
            seen.append("its end took long")
        seen += await self._wait_for_silence(marker)
        seen += self._host.damage()
        return seen

    async def _watch(
        self,
        attempt: Attempt,
        marker: str,
        running: "asyncio.Task[ExecResult]",
        limits: Limits,
        *,
        besides: Collection[int],
    ) -> list[str]:
        """Look at the program, whose processes are none of `besides`, while it runs."""
        most_processes, most_bytes = 0, 0
        deadline = time.monotonic() + _HOLD_SECONDS
        is_counted = "show()" in attempt.code
        while not running.done() and (attempt.holds or is_counted):
            pids = processes_named(marker, besides=besides)
            if attempt.holds and pids:
                seen = [word for pid in pids for word in self._look(pid)]
                seen += self._host.damage()
                wake(pids)
                return seen
            if attempt.holds and time.monotonic() > deadline:
                return ["it never held"]
            most_processes = max(most_processes, sum(map(num_tasks, pids)))
            most_bytes = max(most_bytes, sum(map(resident_bytes, pids)))
            await asyncio.sleep(0.02)
        found = []
        if most_processes > limits.max_processes:
            found.append(f"it had {most_processes} processes and threads")
        if most_bytes > _MEMORY_SLACK * self._most_bytes(limits):
            found.append(f"it had {most_bytes} bytes of memory")
        return found

    def _most_bytes(self, limits: Limits) -> float:
        """Return the bound on memory, which is one a process where no control group counts."""
        processes = 1 if self._has_cgroup else limits.max_processes
        return limits.memory_bytes * processes

    def _look(self, pid: int) -> list[str]:
        try:
            seen = look_at(pid)
        except OSError:
            return []  # it went on meanwhile
        if self._harmless is None:
            self._harmless = seen
        return differences(seen, self._harmless)

    def _judge(self, attempt: Attempt, result: ExecResult, limits: Limits) -> list[str]:
        found = []
        allowed = [*attempt.outcomes, *(() if self._has_cgroup else attempt.without_cgroup)]
        if result.outcome not in allowed:
            when = " at its wall limit" if result.wall_seconds >= limits.wall_seconds else ""
            found.append(f"{_ENDED}{result.outcome}{when} ({result.stderr[-200:]!r})")
        if attempt.kind == "protocol" and result.exit_code == 0:
            found.append("it made the host believe in success")
        said = result.stdout + result.stderr
        found += [
            f"it told the secret of {name}"
            for name, secret in SECRETS.items()
            if secret.encode() in said
        ]
        for line in password_lines():
            if line in said:
                found.append("it told a line of /etc/shadow")
        if max(len(result.stdout), len(result.stderr)) > limits.output_bytes:
            found.append("its output is longer than the limit")
        if result.cpu_seconds > 2 * limits.cpu_seconds + 1.0:
            found.append(f"it used {result.cpu_seconds} s of processor time")
        if result.wall_seconds > limits.wall_seconds + _GRACE_SECONDS:
            found.append(f"it took {result.wall_seconds} s")
        return found

    async def _wait_for_silence(self, marker: str) -> list[str]:
        """Return what is still alive; the last processes of a jail may die an instant after it."""
        deadline = time.monotonic() + self._silence_seconds
        while left := processes_named(marker):
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(0.02)
        else:
            return []
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        return [f"{len(left)} processes outlived it"]


def _whole(limits: dict[str, float]) -> dict[str, float | int]:
    return {name: int(v) if name.endswith("bytes") else v for name, v in limits.items()}


def _plain(bwrap: Path | None) -> Sandbox:
    return BubblewrapSandbox(bwrap=bwrap)


def _warm(bwrap: Path | None) -> Sandbox:
    return WarmSandbox(BubblewrapSandbox(bwrap=bwrap), num_servers=_NUM_LANES, runs_per_server=1000)


def _plain_without_cgroups(bwrap: Path | None) -> Sandbox:
    return BubblewrapSandbox(bwrap=bwrap, cgroups=NO_CGROUPS)


def _warm_without_cgroups(bwrap: Path | None) -> Sandbox:
    jails = BubblewrapSandbox(bwrap=bwrap, cgroups=NO_CGROUPS)
    return WarmSandbox(jails, num_servers=_NUM_LANES, runs_per_server=1000)


def _container(_: Path | None) -> Sandbox:
    from sandboxes.container import ContainerSandbox
    from tests.images import python_image

    engine, image = python_image()
    return ContainerSandbox(image, engine=engine)


SANDBOXES: dict[str, Callable[[Path | None], Sandbox]] = {
    "bubblewrap": _plain,
    "warm": _warm,
    "bubblewrap without control groups": _plain_without_cgroups,
    "warm without control groups": _warm_without_cgroups,
    "container": _container,
}


async def run_suite(kind: str, *, bwrap: Path | None = None) -> dict[str, list[str]]:
    """Run all attempts against a sandbox of this kind, as this user."""
    sandbox = SANDBOXES[kind](bwrap)
    uid = SANDBOX_UID if os.geteuid() == 0 else os.geteuid()
    suite = Suite(
        sandbox,
        has_cgroup="without" not in kind,
        jail_uid=uid,
        num_lanes=_NUM_LANES,
        quiet=() if kind == "container" else QUIET,  # which starts too slowly for that
    )
    try:
        return await suite.run()
    finally:
        await sandbox.close()


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run_suite(sys.argv[1], bwrap=Path(sys.argv[2])))))
