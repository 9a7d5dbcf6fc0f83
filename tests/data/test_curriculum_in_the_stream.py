"""A curriculum under the stream, with dynamic sampling: resumes neither lose nor repeat a task."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from cispo.config.curriculum import PhaseConfig
from cispo.data.curriculum import Curriculum
from cispo.data.mixture import TaskMixture
from cispo.data.solved import SolvedTasks
from cispo.diagnostics import in_task_order
from cispo.stream import OrderedStream
from cispo.types import Group, Message, Metrics, Task
from tests.fakes import FakeEngine, FakeProgress, FakeVerifier

ITERATIONS = 6


class Sums:
    """A table of numbered tasks."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __len__(self) -> int:
        return 20

    def __getitem__(self, row: int) -> Task:
        name = f"{self.name}/{row}"
        prompt = Message(role="user", content=name)
        return Task(task_id=name, messages=(prompt,), verifier="math")


def judge(task_id: str, member: int) -> float:
    """A third of the tasks is always right, a sixth always wrong, the others half right."""
    number = int(task_id.partition("/")[2])
    if number % 3 == 0:
        return 1.0
    return 0.0 if number % 6 == 1 else float(member % 2)


def mixture() -> TaskMixture:
    phases = {
        "one": PhaseConfig(weights={"a": 1}),
        "two": PhaseConfig(weights={"b": 1}, after_iterations=2, ramp_iterations=2),
    }
    return TaskMixture(
        [Sums("a"), Sums("b")],
        [1.0, 1.0],
        seed=1,
        curriculum=Curriculum(phases, ["a", "b"]),
        solved=SolvedTasks(0.9),
    )


class Run:
    """The loop without learning, which can be broken off and gone on with."""

    def __init__(self, max_staleness: int) -> None:
        self.max_staleness = max_staleness
        self.tasks = mixture()
        self.next_task = 0
        self.in_flight: Sequence[Group] = ()
        self.taken: list[list[tuple[int, str]]] = []
        self.metrics: list[Metrics] = []

    async def go_on(self, until: int) -> Mapping[str, Any]:
        """Run to an iteration; returns the state of the tasks as a checkpoint has it."""
        stream = OrderedStream(
            self.tasks,
            FakeEngine(),
            FakeVerifier(judge),
            tasks_per_iteration=3,
            group_size=2,
            max_staleness=self.max_staleness,
            dynamic_sampling=True,
            max_consecutive_drops=30,
            max_ungraded_fraction=0.5,
            seed=0,
            progress=FakeProgress(),
            first_task=self.next_task,
            restored=self.in_flight,
        )
        async with stream:
            for _ in range(len(self.taken), until):
                groups = in_task_order(await stream.take(), stream.dropped)
                self.taken.append([(group.index, group.task.task_id) for group in groups])
                self.metrics.append(self.tasks.observe(groups))
                stream.release()
            self.next_task, self.in_flight = stream.next_task_index, stream.in_flight
            return json.loads(json.dumps(self.tasks.state()))  # type: ignore[no-any-return]

    async def resume(self, at: int) -> dict[int, str]:
        """Break off at an iteration and go on to the end; returns what had been drawn by then."""
        state = await self.go_on(at)
        self.tasks = mixture()
        self.tasks.restore(state)
        count = len(state["drawn"].split())
        indices = range(state["first"], state["first"] + count)
        drawn = {index: self.tasks.task(index).task_id for index in indices}
        await self.go_on(ITERATIONS)
        return drawn


@pytest.mark.parametrize("at", range(1, ITERATIONS))
async def test_a_synchronous_run_that_is_resumed_takes_the_same_tasks(at: int) -> None:
    whole, resumed = Run(max_staleness=0), Run(max_staleness=0)
    await whole.go_on(ITERATIONS)
    await resumed.resume(at)
    assert resumed.taken == whole.taken
    assert resumed.metrics == whole.metrics
    assert whole.metrics[-1]["curriculum/phase"] == 1.0


@pytest.mark.parametrize("at", range(1, ITERATIONS))
async def test_an_overlapped_run_that_is_resumed_takes_every_task_once_as_it_was_drawn(
    at: int,
) -> None:
    run = Run(max_staleness=2)
    drawn = await run.resume(at)
    taken = dict(pair for groups in run.taken for pair in groups)
    assert list(taken) == list(range(len(taken)))
    assert len(taken) == sum(map(len, run.taken))
    assert {index: name for index, name in taken.items() if index in drawn} == {
        index: name for index, name in drawn.items() if index in taken
    }
    assert len(drawn) >= 6
