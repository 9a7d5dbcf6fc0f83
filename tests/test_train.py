import asyncio
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Self

import pytest

from cispo.advantages import advantages
from cispo.config import AdvantageKind
from cispo.errors import DivergedError, RolloutError
from cispo.evaluate import HeldOutEvaluator
from cispo.lessons import unmeasured
from cispo.ports import Learner
from cispo.schedules import Schedules
from cispo.stream import OrderedStream
from cispo.tracking.history import read_history
from cispo.tracking.jsonl import JsonlTracker
from cispo.train import Parts, equal_slices, is_due, train
from cispo.types import Group, Lesson, Metrics, PolicyVersion, Sample
from tests.fakes import (
    FakeEngine,
    FakeLearner,
    FakeMeter,
    FakeProgress,
    FakeTasks,
    FakeTracker,
    FakeVerifier,
    FakeWeights,
    make_rollout,
    make_task,
)
from tests.waiting import until

STDLIB_ONLY = ("cispo.train", "cispo.stream", "cispo.diagnostics", "cispo.evaluate")


@dataclass
class Journal:
    """Every call of a part in order, and the parts themselves."""

    calls: list[str] = field(default_factory=list)
    saved: list[tuple[int, int, int]] = field(default_factory=list)

    async def save(
        self,
        *,
        iteration: int,
        version: PolicyVersion,
        next_task_index: int,
        learner: Learner,
        in_flight: Sequence[Group] = (),
    ) -> None:
        self.calls.append(f"save {iteration}")
        self.saved.append((iteration, version, next_task_index))

    def lap(self) -> Metrics:
        return {"checkpoint/failures": 0.0}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        pass


class Run:
    """A whole run over fakes, with the real stream, advantages, evaluator and loop."""

    def __init__(
        self,
        *,
        max_staleness: int = 0,
        first_iteration: int = 0,
        first_task: int = 0,
        iterations: int = 4,
        engine: FakeEngine | None = None,
        verifier: FakeVerifier | None = None,
    ) -> None:
        journal = self.journal = Journal()
        self.weights = FakeWeights(version=first_iteration)
        self.engine = engine or FakeEngine()
        self.engine.weights = self.weights
        self.tracker = FakeTracker()
        self.progress = FakeProgress()

        class Weights:
            async def publish(_) -> PolicyVersion:  # noqa: N805
                journal.calls.append("publish")
                return await self.weights.publish()

        class Stream(OrderedStream):
            async def take(self) -> Sequence[Group]:
                journal.calls.append("take")
                return await super().take()

            def release(self) -> None:
                journal.calls.append("release")
                super().release()

        class RecordingLearner(FakeLearner):
            async def step(self, samples: Sequence[Sample]) -> Metrics:
                journal.calls.append(f"step {len(samples)}")
                return await super().step(samples)

            async def restore(self, folder: Path) -> None:
                journal.calls.append("restore")
                await super().restore(folder)

        class Evaluator(HeldOutEvaluator):
            async def evaluate(self) -> Metrics:
                journal.calls.append("evaluate")
                return await super().evaluate()

        class Tracker:
            record = self.tracker.record
            finish = self.tracker.finish

            def log(_, step: int, metrics: Metrics) -> None:  # noqa: N805
                journal.calls.append(f"log {step}")
                self.tracker.log(step, metrics)

        self.learner = RecordingLearner()
        self.parts = Parts(
            weights=Weights(),
            stream=Stream(
                FakeTasks(),
                self.engine,
                verifier or FakeVerifier(),
                tasks_per_iteration=4,
                group_size=2,
                max_staleness=max_staleness,
                dynamic_sampling=True,
                max_consecutive_drops=8,
                max_ungraded_fraction=0.5,
                seed=1,
                first_task=first_task,
                iterations=iterations - first_iteration,
                progress=self.progress,
            ),
            meter=FakeMeter(),
            advantages=partial(advantages, kind=AdvantageKind.GROUP_STD),
            learner=self.learner,
            tracker=Tracker(),
            evaluator=Evaluator(
                [make_task(1000)],
                FakeEngine(self.weights),
                FakeVerifier(),
                num_rollouts=2,
                seed=1,
                progress=self.progress,
            ),
            checkpoints=journal,
            progress=self.progress,
        )
        self.train = partial(
            train, self.parts, iterations=iterations, first_iteration=first_iteration
        )


async def test_the_loop_calls_its_parts_in_the_order_of_the_algorithm() -> None:
    run = Run(iterations=2)
    await run.train(updates_per_iteration=2, evaluate_every=2, checkpoint_every=1)
    start = ["publish", "evaluate", "log 0"]
    first = ["take", "step 4", "step 4", "publish", "release", "log 1", "save 1"]
    second = ["take", "step 4", "step 4", "publish", "release", "evaluate", "log 2", "save 2"]
    assert run.journal.calls == [*start, *first, *second]


async def test_a_checkpoint_holds_the_published_version_and_the_tasks_consumed() -> None:
    run = Run(iterations=4, max_staleness=1)
    await run.train(updates_per_iteration=1, evaluate_every=-1, checkpoint_every=2)
    assert run.journal.saved == [(2, 3, 8), (4, 5, 16)]


async def test_a_resumed_run_restores_first_and_then_does_what_the_whole_run_did(
    tmp_path: Path,
) -> None:
    whole = Run(iterations=4)
    await whole.train(updates_per_iteration=2, evaluate_every=0, checkpoint_every=0)

    killed = Run(iterations=2)
    await killed.train(updates_per_iteration=2, evaluate_every=-1, checkpoint_every=0)
    await killed.learner.save(tmp_path)
    _, _, next_task = killed.journal.saved[-1]
    resumed = Run(iterations=4, first_iteration=2, first_task=next_task)
    await resumed.train(
        updates_per_iteration=2, evaluate_every=0, checkpoint_every=0, resume_from=tmp_path
    )

    assert resumed.journal.calls[:3] == ["restore", "publish", "take"]
    assert resumed.journal.calls.count("evaluate") == 1
    assert [step for step, _ in resumed.tracker.lines] == [3, 4]
    assert without_times(resumed.tracker.lines) == without_times(whole.tracker.lines)[-2:]


def without_times(lines: list[tuple[int, dict[str, float]]]) -> list[tuple[int, dict[str, float]]]:
    return [
        (step, {k: v for k, v in metrics.items() if not k.startswith(("time/", "engine/"))})
        for step, metrics in lines
    ]


@pytest.mark.parametrize("max_staleness", [0, 2])
async def test_sync_and_async_runs_are_the_same_loop(max_staleness: int) -> None:
    run = Run(iterations=5, max_staleness=max_staleness)
    await run.train(updates_per_iteration=1, evaluate_every=-1, checkpoint_every=0)
    staleness = [metrics["staleness/max"] for _, metrics in run.tracker.lines]
    assert staleness == [min(i, max_staleness) for i in range(5)]
    assert [s.group_index for step in run.learner.steps for s in step] == [
        index for index in range(20) for _ in range(2)
    ]


async def test_each_step_logs_the_time_of_every_phase_and_speeds() -> None:
    run = Run(iterations=2)
    await run.train(updates_per_iteration=1, evaluate_every=1, checkpoint_every=1)
    _, metrics = run.tracker.lines[-1]
    phases = {"sample", "learn", "publish", "evaluate", "checkpoint", "iteration", "rollout_busy"}
    assert {f"time/{phase}_seconds" for phase in phases} <= metrics.keys()
    assert metrics["time/rollout_tokens_per_second"] > 0
    assert metrics["time/learner_tokens_per_second"] > 0
    assert "time/restore_seconds" not in metrics


async def test_a_schedule_sees_all_groups_of_an_iteration_before_more_are_sampled() -> None:
    verifier = FakeVerifier(lambda task, member: 0.0 if task == "task-1" else float(member))
    run = Run(iterations=2, verifier=verifier)
    started: list[int] = []

    class Schedule(Schedules):
        def observe(self, groups: Sequence[Group]) -> Metrics:
            run.journal.calls.append(f"observe {len(groups)}")
            started.append(len(run.engine.started))
            return {"window/stage": float(len(started))}

    await train(
        replace(run.parts, schedule=Schedule()),
        iterations=2,
        updates_per_iteration=1,
        evaluate_every=-1,
        checkpoint_every=0,
    )
    first = ["publish", "take", "step 8", "observe 5", "publish", "release", "log 1"]
    assert run.journal.calls[:7] == first
    assert started == [5, 9]
    assert [metrics["window/stage"] for _, metrics in run.tracker.lines] == [1.0, 2.0]


async def test_dropped_groups_are_recorded_with_the_others() -> None:
    verifier = FakeVerifier(lambda task, member: 0.0 if task == "task-1" else float(member))
    run = Run(iterations=1, verifier=verifier)
    await run.train(updates_per_iteration=1, evaluate_every=-1, checkpoint_every=0)
    assert [g.index for g in run.tracker.groups[1]] == [0, 1, 2, 3, 4]
    assert run.tracker.lines[-1][1]["drops/all_wrong_groups"] == 1


async def test_what_was_learned_from_is_recorded_with_its_advantages_after_the_updates() -> None:
    verifier = FakeVerifier(lambda task, member: 0.0 if task == "task-1" else float(member))
    run = Run(iterations=1, verifier=verifier)
    steps_before: list[int] = []

    async def review(step: int, groups: Sequence[tuple[Sample, ...]]) -> Sequence[Lesson]:
        steps_before.append(len(run.learner.steps))
        return await unmeasured(step, groups)

    parts = replace(run.parts, review=review)
    await train(parts, iterations=1, updates_per_iteration=2, evaluate_every=-1, checkpoint_every=0)
    assert steps_before == [2]
    assert [lesson.sample.advantage for lesson in run.tracker.lessons[1]] == [-1.0, 1.0] * 4
    learned = {id(lesson.sample.rollout) for lesson in run.tracker.lessons[1]}
    recorded = {g.index: {id(r) for r in g.rollouts} for g in run.tracker.groups[1]}
    assert learned == set().union(*(recorded[index] for index in (0, 2, 3, 4)))


async def test_held_out_rollouts_are_recorded_apart_from_those_of_training() -> None:
    run = Run(iterations=2)
    await run.train(updates_per_iteration=1, evaluate_every=2, checkpoint_every=0)
    assert sorted(run.tracker.held_out) == [0, 2]
    (group,) = run.tracker.held_out[2]
    assert (group.task.task_id, len(group.rollouts)) == ("task-1000", 2)
    assert sorted(run.tracker.groups) == [1, 2]


async def test_what_the_engine_did_stands_in_every_line_of_the_log(tmp_path: Path) -> None:
    run = Run(iterations=2)
    jsonl = JsonlTracker(tmp_path / "metrics.jsonl")
    await train(
        replace(run.parts, tracker=jsonl),
        iterations=2,
        updates_per_iteration=1,
        evaluate_every=0,
        checkpoint_every=0,
    )
    jsonl.finish({})
    history = read_history(tmp_path / "metrics.jsonl")
    assert [(step, line["engine/decode_steps"]) for step, line in history] == [
        (0, 1.0),
        (1, 2.0),
        (2, 3.0),
    ]


async def test_a_slice_without_any_graded_rollout_takes_no_step() -> None:
    run = Run(iterations=1)

    def only_of_the_last_two(groups: Sequence[Group]) -> list[tuple[Sample, ...]]:
        return [(), (), *advantages(groups, kind=AdvantageKind.GROUP_STD)[2:]]

    await train(
        replace(run.parts, advantages=only_of_the_last_two),
        iterations=1,
        updates_per_iteration=2,
        evaluate_every=-1,
        checkpoint_every=0,
    )
    assert [len(step) for step in run.learner.steps] == [4]
    assert run.tracker.lines[-1][1]["learn/updates"] == 1


async def test_an_error_of_the_learner_ends_the_run_and_cancels_the_sampling() -> None:
    run = Run(iterations=3, max_staleness=1, engine=FakeEngine(latency=slow_after_two_iterations))

    async def diverge() -> None:
        raise DivergedError("loss is nan")

    run.learner.on_step = diverge
    with pytest.raises(DivergedError, match="loss is nan"):
        await run.train(updates_per_iteration=1, evaluate_every=-1, checkpoint_every=1)
    assert run.engine.num_active == 0
    assert run.journal.saved == []


def slow_after_two_iterations(task_id: str) -> float:
    return 60.0 if int(task_id.removeprefix("task-")) >= 4 else 0.0


async def test_an_error_of_the_engine_ends_the_run() -> None:
    run = Run(engine=FakeEngine(fails={"task-6": RolloutError("no actor left")}))
    with pytest.raises(RolloutError, match="no actor left"):
        await run.train(updates_per_iteration=1, evaluate_every=-1, checkpoint_every=0)
    assert [step for step, _ in run.tracker.lines] == [1]


def stop_after_the_first_update(run: Run) -> None:
    async def ask() -> None:
        run.parts.stop.ask("SIGTERM")

    run.learner.on_step = ask


async def test_a_stop_while_learning_completes_the_iteration_and_keeps_it() -> None:
    run = Run(iterations=4)
    stop_after_the_first_update(run)
    done = await run.train(updates_per_iteration=2, evaluate_every=1, checkpoint_every=0)
    assert done == 1
    first = ["take", "step 4", "step 4", "publish", "release", "evaluate", "log 1", "save 1"]
    assert run.journal.calls == ["publish", "evaluate", "log 0", *first]
    assert run.journal.saved == [(1, 2, 4)]


async def test_a_stop_while_sampling_gives_it_up_and_keeps_what_was_learned() -> None:
    def latency(task_id: str) -> float:
        return 600.0 if int(task_id.removeprefix("task-")) >= 8 else 0.0

    run = Run(iterations=4, max_staleness=1, engine=FakeEngine(latency=latency))

    training = asyncio.create_task(
        run.train(updates_per_iteration=1, evaluate_every=-1, checkpoint_every=0)
    )
    await until(lambda: run.journal.calls[-2:] == ["log 2", "take"], what="the third sampling")
    run.parts.stop.ask("SIGTERM")
    assert await training == 2
    assert run.journal.saved == [(2, 3, 8)]
    assert run.engine.num_active == 0


async def test_a_stop_after_a_checkpoint_writes_no_second_one() -> None:
    run = Run(iterations=4)
    stop_after_the_first_update(run)
    assert await run.train(updates_per_iteration=1, evaluate_every=-1, checkpoint_every=1) == 1
    assert run.journal.saved == [(1, 2, 4)]


async def test_a_stop_before_the_first_iteration_leaves_nothing() -> None:
    run = Run(iterations=4)
    run.parts.stop.ask("SIGTERM")
    assert await run.train(updates_per_iteration=1, evaluate_every=-1, checkpoint_every=1) == 0
    assert run.journal.calls == ["publish"]


async def test_a_run_that_is_not_stopped_says_that_all_is_done() -> None:
    run = Run(iterations=2)
    assert await run.train(updates_per_iteration=1, evaluate_every=-1, checkpoint_every=0) == 2


async def test_progress_shows_every_phase_from_start_to_finish() -> None:
    run = Run(iterations=1)
    await run.train(updates_per_iteration=2, evaluate_every=0, checkpoint_every=0)
    assert run.progress.events == [
        *("start publish 1", "finish publish", "start evaluate 1", "finish evaluate"),
        *("start sample 4", "finish sample", "start learn 2", "finish learn"),
        *("start publish 1", "finish publish", "start evaluate 1", "finish evaluate"),
        *("start checkpoint 1", "finish checkpoint"),
    ]
    assert run.progress.done["learn"] == 2


def make_samples(*sizes: int) -> list[tuple[Sample, ...]]:
    return [
        tuple(Sample(rollout=make_rollout(), advantage=0.0, group_index=g) for _ in range(size))
        for g, size in enumerate(sizes)
    ]


def test_equal_slices_cut_by_groups_and_keep_the_order() -> None:
    slices = list(equal_slices(make_samples(2, 3, 0, 1), 2))
    assert [[s.group_index for s in piece] for piece in slices] == [[0, 0, 1, 1, 1], [3]]


def test_equal_slices_refuse_a_number_that_does_not_divide_the_groups() -> None:
    with pytest.raises(ValueError, match="4 groups cannot be cut into 3"):
        list(equal_slices(make_samples(1, 1, 1, 1), 3))


def test_what_falls_due_when() -> None:
    assert [is_due(step, 2, last=5) for step in range(1, 6)] == [False, True, False, True, True]
    assert [is_due(step, 0, last=3) for step in range(1, 4)] == [False, False, True]
    assert not any(is_due(step, -1, last=3) for step in range(1, 4))


@pytest.mark.parametrize("module", STDLIB_ONLY)
def test_the_loop_loads_no_third_party_package(module: str) -> None:
    code = (
        f"import sys, {module}; "
        "own = {m.split('.')[0] for m in sys.modules} - set(sys.stdlib_module_names); "
        "print(sorted(m for m in own if m in {'torch', 'ray', 'numpy', 'rich', 'wandb', 'hydra'}))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
