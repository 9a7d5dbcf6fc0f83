"""Lets equal requests share one answer, the running one or a recent one."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Once(Generic[T]):
    """Answers of the last requests."""

    def __init__(self, *, max_answers: int, may_keep: Callable[[T], bool]) -> None:
        """Make an empty one.

        Args:
            max_answers: Answers that are kept.
            may_keep: Whether an answer would be the same another time.
        """
        self._max_answers = max_answers
        self._may_keep = may_keep
        self._answers: OrderedDict[str, asyncio.Future[T]] = OrderedDict()

    async def get(self, key: str, ask: Callable[[], Awaitable[T]]) -> T:
        """Return the answer to the request of this name, by asking if nobody has.

        A request that is cancelled or fails takes nobody else down: the next one asks anew.
        """
        while True:
            answer = self._answers.get(key)
            if answer is None:
                return await self._ask(key, ask)
            self._answers.move_to_end(key)
            await asyncio.wait([answer])
            if not answer.cancelled():
                return answer.result()

    async def _ask(self, key: str, ask: Callable[[], Awaitable[T]]) -> T:
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._answers[key] = answer
        try:
            result = await ask()
        except BaseException:
            self._answers.pop(key, None)
            answer.cancel()
            raise
        answer.set_result(result)
        if not self._may_keep(result):
            self._answers.pop(key, None)
        while len(self._answers) > self._max_answers:
            self._answers.popitem(last=False)
        return result
