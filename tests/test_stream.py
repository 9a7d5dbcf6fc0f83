import asyncio
import random
import re
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cispo.drops import DropReason, drop_reason
from cispo.errors import NoSignal, RolloutError, UngradedError
from cispo.seeding import stream_seed
from cispo.stream import OrderedStream
from cispo.types import Group, Rollout, Task
from tests.fakes import (
    FakeEngine,
    FakeProgress,
    FakeTasks,
    FakeVerifier,
    FakeWeights,
    make_group,
    make_task,
)
from tests.waiting import PATIENCE_SECONDS, until

ALWAYS_SIGNAL = lambda _, member: float(member % 2)  # noqa: E731


def make_stream(
    engine: FakeEngine,
    *,
    judge: Callable[[str, int], float | None] = ALWAYS_SIGNAL,
    tasks_per_iteration: int = 4,
    group_size: int = 2,
    max_staleness: int = 0,
    dynamic_sampling: bool = True,
    max_consecutive_drops: int = 16,
    max_ungraded_fraction: float = 0.5,
    first_task: int = 0,
    iterations: int | None = None,
    progress: FakeProgress | None = None,
    restored: Sequence[Group] = (),
) -> OrderedStream:
    return OrderedStream(
        FakeTasks(),
        engine,
        FakeVerifier(judge),
        tasks_per_iteration=tasks_per_iteration,
        group_size=group_size,
        max_staleness=max_staleness,
        dynamic_sampling=dynamic_sampling,
        max_consecutive_drops=max_consecutive_drops,
        max_ungraded_fraction=max_ungraded_fraction,
        seed=7,
        first_task=first_task,
        iterations=iterations,
        progress=progress or FakeProgress(),
        restored=restored,
    )


async def run(
    stream: OrderedStream, weights: FakeWeights, iterations: int, *, learn_seconds: float = 0.0
) -> tuple[list[list[Group]], list[int]]:
    """The loop without learning: groups by iteration, and every rollout's staleness."""
    taken: list[list[Group]] = []
    staleness: list[int] = []
    async with stream:
        for _ in range(iterations):
            groups = list(await stream.take())
            taken.append(groups)
            staleness += [weights.version - r.oldest_version for g in groups for r in g.rollouts]
            await asyncio.sleep(learn_seconds)
            await weights.publish()
            stream.release()
    return taken, staleness


def random_latency(seed: int) -> Callable[[str], float]:
    """A latency that depends on the task alone: mostly short, sometimes thirty times longer."""

    def latency(task_id: str) -> float:
        draw = random.Random(f"{seed} {task_id}")
        return draw.choice([0.0, 0.0005, 0.001, 0.03])

    return latency


def sometimes_signal(task_id: str, member: int) -> float:
    return float(member % 2 and random.Random(task_id).random() < 0.6)


async def test_groups_come_in_the_order_in_which_their_tasks_started() -> None:
    weights = FakeWeights(version=1)
    slow_first = FakeEngine(weights, latency=lambda task: 0.02 if task == "task-0" else 0.0)
    taken, _ = await run(make_stream(slow_first, iterations=2), weights, 2)
    assert [[g.index for g in groups] for groups in taken] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert [g.task for g in taken[0]] == [make_task(i) for i in range(4)]
    assert slow_first.started == [f"task-{i}" for i in range(8)]


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    max_staleness=st.integers(0, 3),
    learn_seconds=st.sampled_from([0.0, 0.002]),
)
def test_staleness_never_exceeds_its_bound_whatever_the_latencies(
    seed: int, max_staleness: int, learn_seconds: float
) -> None:
    weights = FakeWeights(version=1)
    engine = FakeEngine(weights, latency=random_latency(seed))
    stream = make_stream(
        engine, judge=sometimes_signal, max_staleness=max_staleness, tasks_per_iteration=3
    )
    taken, staleness = asyncio.run(run(stream, weights, 6, learn_seconds=learn_seconds))
    assert max(staleness) <= max_staleness
    assert all(len(groups) == 3 for groups in taken)
    indices = [g.index for groups in taken for g in groups]
    assert indices == sorted(indices)


async def test_the_staleness_bound_is_reached() -> None:
    weights = FakeWeights(version=1)
    stream = make_stream(FakeEngine(weights), max_staleness=2)
    _, staleness = await run(stream, weights, 6)
    assert sorted(set(staleness)) == [0, 1, 2]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_a_synchronous_run_starts_the_same_tasks_whatever_the_latencies(seed: int) -> None:
    def indices(latency: Callable[[str], float]) -> tuple[list[str], list[list[int]], list[int]]:
        weights = FakeWeights(version=1)
        engine = FakeEngine(weights, latency=latency)
        stream = make_stream(engine, judge=sometimes_signal, iterations=4)
        taken, _ = asyncio.run(run(stream, weights, 4))
        versions = [r.oldest_version for groups in taken for g in groups for r in g.rollouts]
        return sorted(engine.started), [[g.index for g in groups] for groups in taken], versions

    assert indices(random_latency(seed)) == indices(lambda _: 0.0)


async def test_a_synchronous_and_a_stale_stream_deliver_the_same_tasks_in_the_same_loop() -> None:
    taken = {}
    for max_staleness in (0, 2):
        weights = FakeWeights(version=1)
        stream = make_stream(
            FakeEngine(weights, latency=random_latency(3)),
            judge=sometimes_signal,
            max_staleness=max_staleness,
        )
        groups_by_iteration, _ = await run(stream, weights, 5)
        taken[max_staleness] = [[g.index for g in groups] for groups in groups_by_iteration]
    assert taken[0] == taken[2]


async def test_each_group_has_a_seed_of_its_own_that_depends_on_its_index_alone() -> None:
    weights = FakeWeights(version=1)
    engine = FakeEngine(weights)
    await run(make_stream(engine, iterations=2), weights, 2)
    assert engine.seeds == {f"task-{i}": stream_seed(7, "rollout", i) for i in range(8)}


async def test_a_group_without_signal_is_replaced_by_the_next_task() -> None:
    def judge(task_id: str, member: int) -> float:
        return {"task-1": 1.0, "task-2": 0.0}.get(task_id, float(member % 2))

    weights = FakeWeights(version=1)
    engine = FakeEngine(weights)
    stream = make_stream(engine, judge=judge, iterations=1)
    async with stream:
        groups = await stream.take()
    assert [g.index for g in groups] == [0, 3, 4, 5]
    assert [g.index for g in stream.dropped[DropReason.ALL_RIGHT]] == [1]
    assert [g.index for g in stream.dropped[DropReason.ALL_WRONG]] == [2]
    assert stream.dropped[DropReason.EQUAL_REWARDS] == []
    assert stream.next_task_index == 6


async def test_without_dynamic_sampling_a_group_without_signal_is_delivered() -> None:
    weights = FakeWeights(version=1)
    stream = make_stream(
        FakeEngine(weights), judge=lambda *_: 1.0, dynamic_sampling=False, max_consecutive_drops=1
    )
    taken, _ = await run(stream, weights, 1)
    assert [g.index for g in taken[0]] == [0, 1, 2, 3]
    assert not any(stream.dropped.values())


async def test_too_many_drops_in_a_row_stop_the_run_and_say_why() -> None:
    engine = FakeEngine()
    stream = make_stream(engine, judge=lambda *_: 1.0, max_consecutive_drops=5)
    async with stream:
        with pytest.raises(NoSignal) as caught:
            await stream.take()
    assert "5 groups in a row" in str(caught.value)
    assert "5 all_right" in str(caught.value)
    assert "pass rate 100.0%" in str(caught.value)
    assert len(engine.started) <= 4 + 5


async def test_drops_with_signal_between_them_do_not_stop_the_run() -> None:
    def judge(task_id: str, member: int) -> float:
        return float(member % 2) if int(task_id.removeprefix("task-")) % 3 == 2 else 0.0

    weights = FakeWeights(version=1)
    stream = make_stream(FakeEngine(weights), judge=judge, max_consecutive_drops=3)
    taken, _ = await run(stream, weights, 3)
    assert [g.index for groups in taken for g in groups] == [2 + 3 * k for k in range(12)]


async def test_a_slow_first_task_does_not_let_later_drops_spin_for_ever() -> None:
    engine = FakeEngine(latency=lambda task: 3600.0 if task == "task-0" else 0.0)
    stream = make_stream(engine, judge=lambda *_: 0.0, max_consecutive_drops=6)
    async with stream, asyncio.timeout(PATIENCE_SECONDS):
        with pytest.raises(NoSignal, match="6 all_wrong"):
            await stream.take()
    assert engine.num_active == 0


async def test_an_ungraded_member_does_not_vote() -> None:
    # A missing verdict that counted as a reward of zero would make a signal of the first.
    assert drop_reason(make_group([1.0, 1.0, None])) is DropReason.ALL_RIGHT
    assert drop_reason(make_group([1.0, 0.0, None])) is None
    assert drop_reason(make_group([1.0, None, None])) is DropReason.UNGRADED
    assert drop_reason(make_group([0.5, 0.5])) is DropReason.EQUAL_REWARDS


async def test_too_many_missing_verdicts_stop_the_run_and_name_their_causes() -> None:
    def judge(task_id: str, member: int) -> float | None:
        return None if member >= 2 else float(member)

    stream = make_stream(
        FakeEngine(), judge=judge, group_size=5, max_ungraded_fraction=0.5, iterations=1
    )
    async with stream:
        with pytest.raises(UngradedError, match=r"12 of 20 .* 12 x sandbox lost"):
            await stream.take()


async def test_missing_verdicts_within_the_limit_are_tolerated() -> None:
    def judge(task_id: str, member: int) -> float | None:
        return None if member >= 2 else float(member)

    stream = make_stream(FakeEngine(), judge=judge, group_size=4, max_ungraded_fraction=0.5)
    async with stream:
        assert len(await stream.take()) == 4


async def test_a_total_outage_is_called_an_outage_and_not_a_lack_of_signal() -> None:
    stream = make_stream(FakeEngine(), judge=lambda *_: None, max_consecutive_drops=100)
    async with stream, asyncio.timeout(PATIENCE_SECONDS):
        with pytest.raises(UngradedError):
            await stream.take()


async def test_an_error_while_sampling_reaches_take_at_once_and_cancels_the_rest() -> None:
    engine = FakeEngine(
        latency=lambda task: 0.0 if task == "task-2" else 3600.0,
        fails={"task-2": RolloutError("no actor left")},
    )
    async with make_stream(engine) as stream, asyncio.timeout(PATIENCE_SECONDS):
        with pytest.raises(RolloutError, match="no actor left"):
            await stream.take()
    assert engine.num_active == 0


async def test_an_error_during_learning_is_raised_by_the_next_take() -> None:
    engine = FakeEngine(
        latency=lambda task: 0.01 if task == "task-5" else 0.0,
        fails={"task-5": RolloutError("no actor left")},
    )
    async with make_stream(engine, max_staleness=1) as stream:
        await stream.take()
        await asyncio.sleep(0.03)
        with pytest.raises(RolloutError):
            await stream.take()


async def test_leaving_the_stream_cancels_what_is_still_sampled() -> None:
    engine = FakeEngine(latency=lambda _: 3600.0)
    async with make_stream(engine, max_staleness=1):
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert engine.num_active == 8
    assert engine.num_active == 0


async def test_too_few_rollouts_are_an_error() -> None:
    class ShortEngine(FakeEngine):
        async def sample(self, task: Task, count: int, *, seed: int):  # type: ignore[no-untyped-def]
            return await super().sample(task, count - 1, seed=seed)

    async with make_stream(ShortEngine()) as stream:
        with pytest.raises(RolloutError, match="task-0: 1 rollouts of 2"):
            await stream.take()


@pytest.mark.parametrize("max_staleness", [0, 2])
async def test_a_resumed_stream_goes_on_with_the_first_task_that_was_not_consumed(
    max_staleness: int,
) -> None:
    weights = FakeWeights(version=1)
    whole, _ = await run(make_stream(FakeEngine(weights), judge=sometimes_signal), weights, 5)
    first = make_stream(FakeEngine(), judge=sometimes_signal, max_staleness=max_staleness)
    before, _ = await run(first, FakeWeights(version=1), 2)
    second = make_stream(
        FakeEngine(),
        judge=sometimes_signal,
        max_staleness=max_staleness,
        first_task=first.next_task_index,
    )
    after, _ = await run(second, FakeWeights(version=3), 3)
    assert [[g.index for g in groups] for groups in before + after] == [
        [g.index for g in groups] for groups in whole
    ]


@pytest.mark.parametrize("max_staleness", [0, 1, 5])
async def test_nothing_is_sampled_for_iterations_that_will_not_come(max_staleness: int) -> None:
    weights = FakeWeights(version=1)
    engine = FakeEngine(weights)
    stream = make_stream(engine, max_staleness=max_staleness, iterations=3)
    await run(stream, weights, 3)
    assert sorted(engine.started) == sorted(f"task-{i}" for i in range(12))


async def test_progress_counts_groups_and_names_the_oldest_task_with_stage_and_age() -> None:
    progress = FakeProgress()

    class SlowEngine(FakeEngine):
        async def sample(self, task: Task, count: int, *, seed: int) -> Sequence[Rollout]:
            if task.task_id == "task-1":
                await until(lambda: bool(progress.waited), what="somebody says what is awaited")
            return await super().sample(task, count, seed=seed)

    async with make_stream(SlowEngine(), progress=progress, iterations=1) as stream:
        await stream.take()
    assert progress.events == ["start sample 4", "finish sample"]
    assert progress.done == {"sample": 4}
    assert re.fullmatch(r"task-1 \(sampling [1-9]\d* s\)", progress.waited[0])


async def test_sampling_seconds_count_only_the_time_in_which_something_was_sampled() -> None:
    now = 100.0

    class TimedEngine(FakeEngine):
        async def sample(self, task: Task, count: int, *, seed: int) -> Sequence[Rollout]:
            nonlocal now
            now += 1.0
            return await super().sample(task, count, seed=seed)

    async with make_stream(TimedEngine(), iterations=2) as stream:
        stream._sampler._clock = lambda: now
        await stream.take()
        assert stream.sampling_seconds == 4.0
        now += 1000.0
        stream.release()
        await stream.take()
        assert stream.sampling_seconds == 4.0


class Interrupted:
    """A loop that is stopped after some iterations, and one that goes on from its checkpoint."""

    def __init__(self, seed: int, *, max_staleness: int, stop_after: int) -> None:
        self.seed = seed
        self.max_staleness = max_staleness
        self.stop_after = stop_after

    def stream(self, weights: FakeWeights, **options: object) -> OrderedStream:
        return make_stream(
            FakeEngine(weights, latency=random_latency(self.seed)),
            judge=sometimes_signal,
            tasks_per_iteration=3,
            max_staleness=self.max_staleness,
            **options,  # type: ignore[arg-type]
        )

    async def both(self) -> tuple[list[list[Group]], list[int], Sequence[Group]]:
        """Groups of all iterations before and after, their staleness, and what was in flight."""
        weights = FakeWeights(version=1)
        first = self.stream(weights)
        taken, staleness = [], []
        async with first:
            for _ in range(self.stop_after):
                groups = list(await first.take())
                taken.append(groups)
                staleness += stale(groups, weights)
                await weights.publish()
                first.release()
                await asyncio.sleep(0.001)
            cursor, in_flight = first.next_task_index, first.in_flight
        resumed = FakeWeights(version=weights.version)
        again, more = await run(
            self.stream(resumed, first_task=cursor, restored=in_flight), resumed, 4
        )
        return [*taken, *again], staleness + more, in_flight


def stale(groups: Sequence[Group], weights: FakeWeights) -> list[int]:
    return [weights.version - r.oldest_version for g in groups for r in g.rollouts]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), max_staleness=st.integers(0, 3), stop_after=st.integers(1, 4))
def test_a_resume_loses_no_task_repeats_none_and_keeps_the_bound(
    seed: int, max_staleness: int, stop_after: int
) -> None:
    interrupted = Interrupted(seed, max_staleness=max_staleness, stop_after=stop_after)
    taken, staleness, in_flight = asyncio.run(interrupted.both())
    indices = [group.index for groups in taken for group in groups]
    judged = [sometimes_signal(f"task-{index}", 1) for index in range(indices[-1] + 1)]
    assert indices == [index for index, reward in enumerate(judged) if reward]
    assert all(len(groups) == 3 for groups in taken)
    assert max(staleness) <= max_staleness
    learned = {group.index: group for groups in taken for group in groups}
    for group in in_flight:
        assert learned.get(group.index, group) is group
    if max_staleness == 0:
        assert list(in_flight) == []


async def test_restored_groups_are_not_sampled_again_and_the_others_are() -> None:
    weights = FakeWeights(version=3)
    engine = FakeEngine(weights)
    groups = {index: make_group([0.0, 1.0], index=index, oldest_version=2) for index in (9, 11, 14)}
    dropped = make_group([0.0, 0.0], index=10, oldest_version=2)
    stream = make_stream(
        engine,
        max_staleness=1,
        first_task=8,
        iterations=2,
        restored=[groups[9], dropped, groups[11], groups[14]],
    )
    taken, staleness = await run(stream, weights, 2)
    assert sorted(engine.started) == ["task-12", "task-13", "task-15", "task-16", "task-8"]
    assert [[g.index for g in groups] for groups in taken] == [[8, 9, 11, 12], [13, 14, 15, 16]]
    assert taken[0][1] is groups[9]
    assert taken[1][1] is groups[14]
    assert max(staleness) <= 2


async def test_groups_in_flight_are_those_judged_and_not_taken_dropped_ones_included() -> None:
    weights = FakeWeights(version=1)
    stream = make_stream(
        FakeEngine(weights),
        judge=lambda task, member: 0.0 if task == "task-5" else float(member % 2),
        max_staleness=1,
    )
    async with stream:
        await stream.take()
        await until(lambda: len(stream.in_flight) == 5, what="all that may run ahead are judged")
        assert [group.index for group in stream.in_flight] == [4, 5, 6, 7, 8]
        await stream.take()
        assert list(stream.in_flight) == []


async def test_restored_groups_that_are_not_yet_due_stay_in_flight() -> None:
    weights = FakeWeights(version=1)
    restored = [make_group([0.0, 1.0], index=index) for index in range(8)]
    stream = make_stream(FakeEngine(weights), max_staleness=1, restored=restored, iterations=1)
    async with stream:
        assert [group.index for group in stream.in_flight] == list(range(8))
        assert [group.index for group in await stream.take()] == [0, 1, 2, 3]
        assert [group.index for group in stream.in_flight] == [4, 5, 6, 7]
