"""The pool: bounded, lost runs go elsewhere, a member's own probe decides whether it is sick."""

import asyncio

import pytest

from cispo.errors import SandboxUnavailableError
from sandboxes.base import ExecResult, Limits, Outcome, Program
from sandboxes.pool import SandboxPool
from tests.waiting import until

LIMITS = Limits(
    cpu_seconds=1, wall_seconds=1, memory_bytes=2**26, max_processes=4, output_bytes=100
)
PROGRAM = Program(argv=("true",))


def ended(outcome: Outcome, who: str) -> ExecResult:
    return ExecResult(
        outcome=outcome,
        exit_code=0 if outcome is Outcome.EXITED else None,
        stdout=who.encode(),
        stderr=b"the reason",
        cpu_seconds=0.0,
        wall_seconds=0.0,
    )


class Member:
    """Loses runs while it is told to, and counts."""

    def __init__(self, name: str, *, loses: bool = False, is_sick: bool = False) -> None:
        self.name = name
        self.loses = loses
        self.is_sick = is_sick
        self.num_runs = self.num_probes = self.num_now = self.most_at_once = 0
        self.gate: asyncio.Event | None = None
        self.is_closed = False

    async def run(self, program: Program, limits: Limits) -> ExecResult:
        self.num_runs += 1
        self.num_now += 1
        self.most_at_once = max(self.most_at_once, self.num_now)
        try:
            if self.gate is not None:
                await self.gate.wait()
            await asyncio.sleep(0)
        finally:
            self.num_now -= 1
        return ended(Outcome.LOST if self.loses else Outcome.EXITED, self.name)

    async def probe(self) -> tuple[str, ...]:
        self.num_probes += 1
        if self.is_sick:
            raise SandboxUnavailableError(f"{self.name} has no layer")
        return ("layer",)

    async def close(self) -> None:
        self.is_closed = True


def make(*members: Member, **options: float) -> SandboxPool:
    return SandboxPool(
        {member.name: member for member in members},
        **{"max_concurrent": 2, "quarantine_seconds": 0.02} | options,  # type: ignore[arg-type]
    )


async def test_a_lost_run_is_tried_on_another_member() -> None:
    bad, good = Member("bad", loses=True), Member("good")
    pool = make(bad, good)
    assert (await pool.run(PROGRAM, LIMITS)).stdout == b"good"
    assert (bad.num_runs, good.num_runs) == (1, 1)
    await pool.close()


async def test_a_run_that_is_lost_everywhere_is_lost_and_not_tried_twice_on_one() -> None:
    members = [Member("a", loses=True), Member("b", loses=True), Member("c", loses=True)]
    pool = make(*members, max_attempts=5)
    assert (await pool.run(PROGRAM, LIMITS)).outcome is Outcome.LOST
    assert [member.num_runs for member in members] == [1, 1, 1]
    await pool.close()


async def test_runs_are_bounded_on_each_member_and_spread() -> None:
    a, b = Member("a"), Member("b")
    a.gate = b.gate = asyncio.Event()
    pool = make(a, b, max_concurrent=2)
    running = [asyncio.create_task(pool.run(PROGRAM, LIMITS)) for _ in range(7)]
    await until(lambda: a.num_now + b.num_now == 4, what="both members are full")
    a.gate.set()
    await asyncio.gather(*running)
    assert (a.most_at_once, b.most_at_once) == (2, 2)
    await pool.close()


async def test_a_member_that_loses_and_fails_its_probe_gets_no_programs_until_it_is_well() -> None:
    bad, good = Member("bad", loses=True, is_sick=True), Member("good")
    pool = make(bad, good, losses_to_probe=2)
    while not pool.sick:
        await pool.run(PROGRAM, LIMITS)
    assert bad.num_runs == 2
    await until(lambda: pool.sick.get("bad") == "bad has no layer", what="it fails its probe")
    for _ in range(5):
        assert (await pool.run(PROGRAM, LIMITS)).stdout == b"good"
    assert bad.num_runs == 2
    bad.is_sick = bad.loses = False
    await until(lambda: not pool.sick, what="it is well again")
    for _ in range(4):
        await asyncio.gather(pool.run(PROGRAM, LIMITS), pool.run(PROGRAM, LIMITS))
    assert bad.num_runs > 2
    await pool.close()


async def test_programs_that_lose_themselves_do_not_keep_a_healthy_member_out() -> None:
    members = [Member("a", loses=True), Member("b", loses=True)]
    pool = make(*members, losses_to_probe=1)
    await pool.run(PROGRAM, LIMITS)
    await until(lambda: not pool.sick, what="both pass their probes")
    assert [member.num_probes for member in members] == [1, 1]
    await pool.close()


async def test_while_all_are_sick_a_program_waits_for_one_to_come_back() -> None:
    only = Member("only", loses=True, is_sick=True)
    pool = make(only, losses_to_probe=1, quarantine_seconds=3600.0)
    await pool.run(PROGRAM, LIMITS)
    assert pool.sick
    waiting = asyncio.create_task(pool.run(PROGRAM, LIMITS))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    waiting.cancel()
    await pool.close()


async def test_a_program_does_not_wait_for_ever() -> None:
    only = Member("only", loses=True, is_sick=True)
    pool = make(only, losses_to_probe=1)
    await pool.run(PROGRAM, LIMITS)
    result = await pool.run(PROGRAM, LIMITS)
    assert (result.outcome, result.stderr) == (Outcome.LOST, b"every sandbox is sick")
    await pool.close()


async def test_the_probe_sets_sick_members_aside_and_needs_one_that_is_well() -> None:
    bad, good = Member("bad", is_sick=True), Member("good")
    pool = make(bad, good)
    assert await pool.probe() == ("layer",)
    assert list(pool.sick) == ["bad"]
    await pool.close()
    assert bad.is_closed
    assert good.is_closed
    with pytest.raises(SandboxUnavailableError, match="bad has no layer"):
        await make(Member("bad", is_sick=True)).probe()


async def test_a_cancelled_run_gives_its_room_back() -> None:
    only = Member("only")
    only.gate = asyncio.Event()
    pool = make(only, max_concurrent=1)
    running = asyncio.create_task(pool.run(PROGRAM, LIMITS))
    await until(lambda: only.num_now == 1, what="it runs")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    only.gate.set()
    assert (await pool.run(PROGRAM, LIMITS)).outcome is Outcome.EXITED
    await pool.close()


def test_a_pool_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        SandboxPool({}, max_concurrent=1)
