"""The task sequence: repeatable, weighted, and free of held-out tasks."""

from collections import Counter

import pytest

from cispo.data.mixture import TaskMixture, prompt_text
from cispo.data.skips import SkipReason
from cispo.errors import ConfigError
from cispo.types import Message, Task

HELD_OUT = SkipReason.HELD_OUT


class Numbers:
    """A table of numbered tasks."""

    def __init__(self, name: str, length: int) -> None:
        self.name = name
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, row: int) -> Task:
        prompt = Message(role="user", content=f"{self.name} {row}")
        return Task(
            task_id=f"{self.name}/{row}", messages=(prompt,), verifier="math", source=self.name
        )


def mixture(**changes: object) -> TaskMixture:
    arguments: dict[str, object] = {"seed": 3, **changes}
    return TaskMixture([Numbers("a", 10), Numbers("b", 5)], [3.0, 1.0], **arguments)  # type: ignore[arg-type]


def test_a_task_depends_on_its_index_alone() -> None:
    in_order, backwards = mixture(), mixture()
    forward = [in_order.task(i).task_id for i in range(40)]
    assert [backwards.task(i).task_id for i in reversed(range(40))] == forward[::-1]


def test_another_seed_gives_another_sequence() -> None:
    ids = [[m.task(i).task_id for i in range(20)] for m in (mixture(), mixture(seed=4))]
    assert ids[0] != ids[1]


def test_weights_are_shares_of_the_mixture() -> None:
    tasks = mixture()
    shares = Counter(tasks.task(i).source for i in range(2000))
    assert shares["a"] == pytest.approx(1500, abs=100)


def test_an_epoch_holds_every_task_once_and_the_next_has_another_order() -> None:
    tasks = TaskMixture([Numbers("a", 10)], [1.0], seed=0)
    epochs = [[tasks.task(10 * e + i).task_id for i in range(10)] for e in (0, 1)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == [f"a/{i}" for i in range(10)]
    assert epochs[0] != epochs[1]


def test_held_out_prompts_never_appear() -> None:
    held_out = {"a 1", "a 2", "b 0"}
    tasks = mixture(skips=lambda task: HELD_OUT if prompt_text(task) in held_out else None)
    assert not {prompt_text(tasks.task(i)) for i in range(200)} & held_out


def test_a_table_that_is_wholly_held_out_is_refused() -> None:
    tasks = TaskMixture([Numbers("a", 2)], [1.0], seed=0, skips=lambda _: HELD_OUT)
    with pytest.raises(ConfigError, match="no task of a is left to draw: 2 held_out"):
        tasks.task(0)


def test_the_system_prompt_comes_first_and_does_not_make_a_task_new() -> None:
    task = mixture(system_prompt="Think.").task(0)
    assert [m.role for m in task.messages] == ["system", "user"]
    assert prompt_text(task) == task.messages[1].content
