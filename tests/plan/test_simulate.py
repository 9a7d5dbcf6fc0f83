import asyncio
import random
import selectors
from collections.abc import Awaitable, Callable

import pytest

from cispo.plan.lockstep import LockstepEngine
from cispo.plan.simulate import Speeds, Workload, simulate
from cispo.plan.simulated import Simulation
from cispo.stream import OrderedStream
from tests.fakes import FakeEngine, FakeProgress, FakeTasks, FakeVerifier, FakeWeights

MANY = 10_000


def play(
    *,
    length: Callable[[int, int], int],
    iterations: int = 1,
    tasks: int = 1,
    group: int = 1,
    staleness: int = 0,
    dropped: Callable[[int], bool] = lambda _: False,
    engines: int = 1,
    slots: int = MANY,
    step: Callable[[int], float] = lambda _: 1.0,
    learn: float = 0.0,
    graders: int = 1,
    grade: float = 0.0,
    publish: float = 0.0,
    pause: float = 0.0,
) -> Simulation:
    return simulate(
        Workload(
            iterations=iterations,
            tasks_per_iteration=tasks,
            group_size=group,
            max_staleness=staleness,
            length=length,
            is_dropped=dropped,
        ),
        Speeds(
            num_engines=engines,
            max_sequences=slots,
            step_seconds=step,
            learn_seconds=lambda _: learn,
            num_graders=graders,
            grade_seconds=grade,
            publish_seconds=publish,
            pause_seconds=pause,
        ),
    )


def test_a_synchronous_iteration_takes_its_parts_one_after_the_other() -> None:
    found = play(length=lambda *_: 10, iterations=3, learn=4.0, grade=2.0, publish=1.0)
    assert found.wall_seconds == 3 * (10 + 2 + 4 + 1)
    assert [i.waited_seconds for i in found.iterations] == [12.0, 12.0, 12.0]
    assert found.engine_fraction == pytest.approx(10 / 17)
    assert found.learner_fraction == pytest.approx(4 / 17)
    assert found.waiting_fraction == pytest.approx(12 / 17)
    assert found.staleness_counts == {0: 3}
    assert found.learned_tokens_per_second == pytest.approx(10 / 17)


def test_an_iteration_waits_for_its_longest_rollout() -> None:
    found = play(length=lambda _, member: (3, 20, 5)[member], group=3)
    assert found.wall_seconds == 20
    assert found.sequence_seconds == 3 + 20 + 5


def test_sequences_without_a_slot_wait_in_order() -> None:
    # Two slots: 4 and 6 run; at 4 the third starts and ends at 9.
    found = play(length=lambda _, member: (4, 6, 5)[member], group=3, slots=2)
    assert found.wall_seconds == 9
    assert found.batch_fraction == pytest.approx((4 + 6 + 5) / (9 * 2))


def test_a_step_of_more_sequences_may_take_longer() -> None:
    # Two tokens each at 2 s a step, then the longer one's two more at 1 s.
    found = play(length=lambda _, member: (2, 4)[member], group=2, step=float)
    assert found.wall_seconds == 2 * 2 + 2 * 1


def test_groups_go_to_the_engine_with_least_to_do() -> None:
    found = play(length=lambda index, _: (9, 2, 3)[index], tasks=3, engines=2, slots=1)
    # The first engine has group 0, the second groups 1 and then 2 is queued behind group 0.
    assert found.wall_seconds == 12
    assert found.engine_busy_seconds == (12.0, 2.0)


def test_graders_take_rollouts_as_they_become_free() -> None:
    found = play(length=lambda *_: 1, group=5, graders=2, grade=3.0)
    assert found.wall_seconds == 1 + 3 * 3  # five rollouts on two graders


def test_a_dropped_group_is_replaced_by_the_next_task() -> None:
    found = play(length=lambda index, _: 1 + index, tasks=2, dropped=lambda index: index == 0)
    # Groups 0 and 1 start at 0; group 0 is dropped at 1, and group 2 runs from there for 3.
    assert found.wall_seconds == 4
    assert found.iterations[0].groups == (1, 2)
    assert found.iterations[0].num_dropped == 1
    assert found.sampled_tokens == 1 + 2 + 3


def test_sampling_ahead_hides_it_behind_learning_and_makes_it_stale() -> None:
    found = play(length=lambda *_: 10, iterations=4, staleness=1, learn=10.0)
    # Sampled from 0 to 10 were both of the first; from then on sampling and learning overlap.
    assert [i.taken_at for i in found.iterations] == [10.0, 20.0, 30.0, 40.0]
    assert found.wall_seconds == 50
    assert found.steady_seconds == 10
    assert found.iteration_seconds == 12.5
    assert [i.staleness for i in found.iterations] == [(0,), (1,), (1,), (1,)]


def test_engines_stand_still_while_weights_arrive() -> None:
    kwargs = {"length": lambda *_: 10, "iterations": 2, "staleness": 1, "learn": 4.0}
    running = play(**kwargs, slots=1)  # type: ignore[arg-type]
    paused = play(**kwargs, slots=1, publish=3.0, pause=3.0)  # type: ignore[arg-type]
    assert running.iterations[1].taken_at == 20.0
    assert paused.iterations[1].taken_at == 23.0


def test_the_same_work_gives_the_same_numbers() -> None:
    def length(index: int, member: int) -> int:
        return random.Random(f"{index} {member}").randint(1, 50)

    def once() -> Simulation:
        return play(length=length, iterations=5, tasks=4, group=3, staleness=2, slots=5, learn=9.5)

    assert once() == once()


def test_an_engine_tells_who_starts_and_who_finishes() -> None:
    engine: LockstepEngine[str] = LockstepEngine(1, lambda _: 0.5)
    assert engine.submit(0.0, [(4, "a"), (2, "b")]) == ["a"]
    assert engine.outstanding == 2
    assert engine.next_finish() == 2.0
    assert engine.finish(2.0) == (["a"], ["b"])
    assert engine.next_finish() == 3.0
    engine.pause(2.5, 1.0)
    assert engine.next_finish() == 4.0
    assert engine.finish(4.0) == (["b"], [])
    assert (engine.busy_seconds, engine.sampled_tokens, engine.outstanding) == (3.0, 6, 0)


class _VirtualSelector(selectors.SelectSelector):
    """Lets time pass at once where everybody only waits for it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.now += timeout or 0.0
        return super().select(0)


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.clock = _VirtualSelector()
        super().__init__(self.clock)

    def time(self) -> float:
        return self.clock.now


def in_virtual_time(work: Callable[[_VirtualLoop], Awaitable[None]]) -> None:
    loop = _VirtualLoop()
    try:
        loop.run_until_complete(work(loop))
    finally:
        loop.close()


@pytest.mark.parametrize("staleness", [0, 1, 3])
@pytest.mark.parametrize("seed", range(4))
def test_it_agrees_with_the_real_stream(seed: int, staleness: int) -> None:
    iterations, tasks, group, learn = 6, 4, 2, 7.25

    def tokens(index: int) -> int:
        return random.Random(f"{seed} {index}").randint(1, 40)

    def is_dropped(index: int) -> bool:
        return random.Random(f"drop {seed} {index}").random() < 0.3

    simulated = play(
        # No two groups of a run end at the same instant, at which an order would be arbitrary.
        length=lambda index, _: 1000 * tokens(index) + index,
        iterations=iterations,
        tasks=tasks,
        group=group,
        staleness=staleness,
        dropped=is_dropped,
        step=lambda _: 0.001,
        learn=learn,
    )
    weights = FakeWeights(version=1)

    def latency(task_id: str) -> float:
        index = int(task_id.removeprefix("task-"))
        return tokens(index) + 0.001 * index

    def judge(task_id: str, member: int) -> float:
        return float(member if not is_dropped(int(task_id.removeprefix("task-"))) else 0)

    stream = OrderedStream(
        FakeTasks(),
        FakeEngine(weights, latency=latency),
        FakeVerifier(judge),
        tasks_per_iteration=tasks,
        group_size=group,
        max_staleness=staleness,
        dynamic_sampling=True,
        max_consecutive_drops=1000,
        max_ungraded_fraction=0.5,
        seed=seed,
        progress=FakeProgress(),
        iterations=iterations,
    )
    taken: list[tuple[float, tuple[int, ...], tuple[int, ...]]] = []

    async def loop_of_training(loop: _VirtualLoop) -> None:
        async with stream:
            for _ in range(iterations):
                groups = await stream.take()
                ages = tuple(weights.version - r.oldest_version for g in groups for r in g.rollouts)
                taken.append((loop.time(), tuple(g.index for g in groups), ages))
                await asyncio.sleep(learn)
                await weights.publish()
                stream.release()

    in_virtual_time(loop_of_training)
    assert [i.groups for i in simulated.iterations] == [groups for _, groups, _ in taken]
    assert [i.staleness for i in simulated.iterations] == [ages for _, _, ages in taken]
    assert [i.taken_at for i in simulated.iterations] == pytest.approx([t for t, _, _ in taken])
