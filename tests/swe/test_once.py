"""Equal requests share an answer, and no one's misfortune."""

import asyncio

import pytest

from rewards.swe.once import Once


class Oracle:
    def __init__(self, *answers: int | Exception) -> None:
        self._answers = list(answers)
        self.num_asked = 0
        self.may_answer = asyncio.Event()

    async def ask(self) -> int:
        self.num_asked += 1
        await self.may_answer.wait()
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def once(max_answers: int = 8) -> Once[int]:
    return Once(max_answers=max_answers, may_keep=lambda answer: answer >= 0)


async def test_equal_requests_are_answered_together_and_later_from_memory() -> None:
    shared, oracle = once(), Oracle(7, 8)
    asked = [asyncio.create_task(shared.get("a", oracle.ask)) for _ in range(3)]
    await asyncio.sleep(0)
    oracle.may_answer.set()
    assert await asyncio.gather(*asked) == [7, 7, 7]
    assert await shared.get("a", oracle.ask) == 7
    assert oracle.num_asked == 1
    assert await shared.get("b", oracle.ask) == 8


async def test_who_is_cancelled_or_fails_takes_nobody_along() -> None:
    shared, oracle = once(), Oracle(ValueError("no"), 7)
    first, second = (asyncio.create_task(shared.get("a", oracle.ask)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    third = asyncio.create_task(shared.get("a", oracle.ask))
    await asyncio.sleep(0.01)
    oracle.may_answer.set()
    outcomes = await asyncio.gather(first, second, third, return_exceptions=True)
    assert isinstance(outcomes[0], asyncio.CancelledError)
    assert sorted(map(str, outcomes[1:])) == ["7", "no"]


async def test_what_may_differ_next_time_and_what_is_old_is_forgotten() -> None:
    shared, oracle = once(max_answers=2), Oracle(-1, 1, 2, 3, 4)
    oracle.may_answer.set()
    assert await shared.get("a", oracle.ask) == -1
    assert [await shared.get(key, oracle.ask) for key in "abc"] == [1, 2, 3]
    assert await shared.get("c", oracle.ask) == 3
    assert await shared.get("a", oracle.ask) == 4


async def test_an_error_is_raised_and_not_kept() -> None:
    shared, oracle = once(), Oracle(ValueError("no"), 1)
    oracle.may_answer.set()
    with pytest.raises(ValueError, match="no"):
        await shared.get("a", oracle.ask)
    assert await shared.get("a", oracle.ask) == 1
