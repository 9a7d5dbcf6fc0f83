"""Which gradings travel together; no worker is needed to tell."""

import asyncio
from collections import deque

import pytest

from cispo.types import Task
from rewards.handing_out import MOST_A_CALL, Asked, next_call
from tests.fakes import make_rollout, make_task


def asked(verifier: str, *, has_failed: bool = False) -> Asked:
    task = make_task()
    return Asked(
        task=Task(task_id="t", messages=task.messages, verifier=verifier, truth=task.truth),
        rollout=make_rollout(),
        verdict=asyncio.get_running_loop().create_future(),
        failures=["its worker died"] if has_failed else [],
    )


def calls(*gradings: Asked, num_workers: int) -> list[list[Asked]]:
    """Empty a queue."""
    waiting = deque(gradings)
    made = []
    while call := next_call(waiting, num_workers=num_workers):
        made.append(call)
    return made


async def test_many_gradings_travel_in_full_calls_and_in_their_order() -> None:
    many = [asked("math") for _ in range(40)]
    made = calls(*many, num_workers=2)
    assert [len(call) for call in made[:3]] == [MOST_A_CALL] * 3
    assert [one for call in made for one in call] == many


async def test_few_gradings_are_shared_among_all_workers() -> None:
    made = calls(*(asked("math") for _ in range(6)), num_workers=3)
    assert [len(call) for call in made[:2]] == [2, 2]


async def test_only_one_verifiers_gradings_share_a_call() -> None:
    kinds = ["math"] * 3 + ["code"] * 2 + ["math"]
    made = calls(*(asked(kind) for kind in kinds), num_workers=1)
    assert [[a.task.verifier for a in call] for call in made] == [
        ["math"] * 3,
        ["code"] * 2,
        ["math"],
    ]


@pytest.mark.parametrize("verifier", ["swe", "judge"])
async def test_what_waits_long_travels_alone(verifier: str) -> None:
    made = calls(*(asked(verifier) for _ in range(3)), num_workers=1)
    assert [len(call) for call in made] == [1, 1, 1]


async def test_what_failed_before_takes_no_other_down_again() -> None:
    made = calls(
        asked("math", has_failed=True),
        asked("math"),
        asked("math"),
        asked("math", has_failed=True),
        num_workers=1,
    )
    assert [len(call) for call in made] == [1, 2, 1]


async def test_what_nobody_waits_for_any_more_is_left_out() -> None:
    gone, wanted = asked("math"), asked("math")
    gone.verdict.cancel()
    assert calls(gone, wanted, num_workers=1) == [[wanted]]
