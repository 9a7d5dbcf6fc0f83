"""What a run has solved is not drawn again, what was measured as too hard or easy not at all."""

import json
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from cispo.config.curriculum import DifficultyConfig, PhaseConfig
from cispo.config.tasks import SourceConfig, TasksConfig
from cispo.data.build import training_tasks
from cispo.data.curriculum import Curriculum
from cispo.data.mixture import TaskMixture
from cispo.data.skips import SkipReason, measured_too
from cispo.data.solved import SolvedTasks
from cispo.errors import ConfigError, NoSignal, TaskFileError
from cispo.types import Group, Message, Task
from tests.fakes import graded, make_rollout, make_task


class Numbers:
    """A table of numbered tasks, with the pass rate row / length."""

    def __init__(self, name: str, length: int) -> None:
        self.name = name
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, row: int) -> Task:
        prompt = Message(role="user", content=f"{self.name} {row}")
        name = f"{self.name}/{row}"
        rate = row / self._length
        return replace(make_task(), task_id=name, messages=(prompt,), pass_rate=rate)


def judged(index: int, task: Task, *rewards: float) -> Group:
    rollouts = tuple(make_rollout(task.task_id) for _ in rewards)
    verdicts = tuple(graded(reward) for reward in rewards)
    return Group(index=index, task=task, rollouts=rollouts, verdicts=verdicts)


def test_a_task_is_solved_by_all_its_rollouts_of_the_run() -> None:
    solved = SolvedTasks(0.9)
    solved.observe((0, 3), right=8, judged=10)
    assert (0, 3) not in solved
    solved.observe((0, 3), right=10, judged=10)  # 18 of 20
    assert (0, 3) in solved
    solved.observe((1, 3), right=0, judged=0)
    assert (1, 3) not in solved
    assert len(solved) == 1
    again = SolvedTasks(0.9)
    again.restore(json.loads(json.dumps(solved.state())))
    assert again.state() == {"0": "3:18/20", "1": "3:0/0"}
    assert (0, 3) in again


def test_bounds_of_the_measured_pass_rate_are_open() -> None:
    too = partial(measured_too, above=0.0, below=0.9)
    rates = [0.0, 0.1, 0.899, 0.9, 1.0, None]
    found = [too(replace(make_task(), pass_rate=rate)) for rate in rates]
    hard, easy = SkipReason.TOO_HARD, SkipReason.TOO_EASY
    assert found == [hard, None, None, easy, easy, None]


def test_solved_tasks_are_not_drawn_again_and_are_counted() -> None:
    tasks = TaskMixture([Numbers("a", 4)], [1.0], seed=0, solved=SolvedTasks(0.9))
    epoch = [tasks.task(index) for index in range(4)]
    rewards = {"a/0": 1.0, "a/1": 1.0, "a/2": 0.0, "a/3": 0.0}
    groups = [judged(i, task, rewards[task.task_id]) for i, task in enumerate(epoch)]
    first = tasks.observe(groups)
    assert (first["curriculum/solved_tasks"], first["skips/solved_tasks"]) == (2.0, 0.0)
    later = [tasks.task(index) for index in range(4, 12)]
    assert Counter(task.task_id for task in later) == {"a/2": 4, "a/3": 4}
    again = tasks.observe([judged(4 + i, task, 0.0) for i, task in enumerate(later)])
    # Four epochs of two tasks; those passed over after the last task are not yet counted.
    assert 6.0 <= again["skips/solved_tasks"] <= 8.0


def test_when_a_source_is_solved_the_others_share_its_part_and_then_the_run_ends() -> None:
    tables = [Numbers("a", 2), Numbers("b", 2)]
    tasks = TaskMixture(tables, [1.0, 1.0], seed=1, solved=SolvedTasks(0.5))
    told: list[str] = []
    tasks.announce_to(told.append)
    for index in range(4):
        tasks.observe([judged(index, tasks.task(index), 1.0)])
    with pytest.raises(NoSignal, match="all tasks are solved of a, b"):
        tasks.task(4)
    assert {line.split(" are solved")[0] for line in told} == {
        "curriculum: all tasks of a",
        "curriculum: all tasks of b",
    }


def curriculum_mixture() -> TaskMixture:
    phases = {
        "one": PhaseConfig(weights={"a": 1}),
        "two": PhaseConfig(
            weights={"a": 1, "b": 3},
            pass_rate_of="a",
            pass_rate=0.3,
            pass_rate_tasks=4,
            ramp_iterations=3,
        ),
    }
    return TaskMixture(
        [Numbers("a", 12), Numbers("b", 9)],
        [1.0, 1.0],
        seed=5,
        curriculum=Curriculum(phases, ["a", "b"]),
        solved=SolvedTasks(0.9),
    )


def outcome(index: int, task: Task) -> Group:
    """Rows 0, 3, 6 and so on are right; the rest is half right."""
    return judged(index, task, 1.0, float(int(task.task_id[2:]) % 3 == 0))


@pytest.mark.parametrize("ahead", [0, 4])
def test_a_resume_draws_the_same_tasks_and_logs_the_same_numbers(ahead: int) -> None:
    """Four tasks an iteration; with `ahead`, four more are drawn before what precedes is known."""

    def run(tasks: TaskMixture, iterations: range) -> list[object]:
        seen: list[object] = []
        for step in iterations:
            drawn = [tasks.task(index) for index in range(4 * step, 4 * step + 4 + ahead)][:4]
            groups = [outcome(4 * step + place, task) for place, task in enumerate(drawn)]
            seen.append(([task.task_id for task in drawn], tasks.observe(groups)))
        return seen

    whole = run(curriculum_mixture(), range(8))
    shares = {entry[1]["curriculum/share/b"] for entry in whole}  # type: ignore[index]
    assert len(shares) == 4
    for cut in range(8):
        tasks = curriculum_mixture()
        before = run(tasks, range(cut))
        tasks.task(4 * cut + 1)  # the next iteration has begun when the checkpoint is written
        state = json.loads(json.dumps(tasks.state()))
        resumed = curriculum_mixture()
        resumed.preview(5)
        resumed.restore(state)
        assert before + run(resumed, range(cut, 8)) == whole


def test_a_preview_has_tasks_of_every_source_and_changes_nothing() -> None:
    tasks = curriculum_mixture()
    assert [task.task_id[0] for task in tasks.preview(4)] == ["a", "b", "a", "b"]
    assert [tasks.task(i) for i in range(4)] == [curriculum_mixture().task(i) for i in range(4)]


def file_tasks(folder: Path, *rates: float | None, **changes: object) -> TasksConfig:
    """Tasks of a file, with these pass rates."""
    rows = [
        {"problem": f"{row} + 1?", "answer": str(row + 1), "pass_rate": rate}
        for row, rate in enumerate(rates)
    ]
    file = folder / "sums.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = SourceConfig(kind="jsonl", name=str(file), label="plus one")
    return TasksConfig(sources=[source], **changes)  # type: ignore[arg-type]


def test_training_draws_tasks_whose_measured_pass_rate_lies_between(tmp_path: Path) -> None:
    difficulty = DifficultyConfig(above=0.0, below=0.9)
    tasks = file_tasks(tmp_path, 0.0, 0.3, 0.9, 0.8, None, 1, difficulty=difficulty)
    training = training_tasks(tasks, seed=0)
    drawn = [training.task(index) for index in range(6)]
    assert {task.pass_rate for task in drawn} == {0.3, 0.8, None}
    assert {task.source for task in drawn} == {"plus one"}
    counted = training.observe([judged(index, task, 1.0) for index, task in enumerate(drawn)])
    # Of the second epoch those after its last task are not yet counted.
    assert counted["skips/too_hard_tasks"] in (1.0, 2.0)
    assert counted["skips/too_easy_tasks"] in (2.0, 3.0, 4.0)


def test_bounds_without_any_measured_pass_rate_are_refused(tmp_path: Path) -> None:
    tasks = file_tasks(tmp_path, None, None, difficulty=DifficultyConfig(above=0.0))
    with pytest.raises(ConfigError, match=r"no task of plus one has a pass_rate.*launch.prepare"):
        training_tasks(tasks, seed=0)


def test_a_pass_rate_outside_0_to_1_is_refused_by_line(tmp_path: Path) -> None:
    with pytest.raises(TaskFileError, match=r"sums.jsonl, line 2: 'pass_rate'.*is 60"):
        training_tasks(file_tasks(tmp_path, 0.5, 60), seed=0)
