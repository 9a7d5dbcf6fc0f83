"""Which gradings go to a worker together (stdlib only).

A call to a worker costs about as much as an easy verdict, so neighbours travel in one call, which
also keeps the rollouts of a task together: their reference is then read once.
"""

import asyncio
import math
from collections import deque
from dataclasses import dataclass, field

from cispo.types import Rollout, Task, Verdict

MOST_A_CALL = 8
_ALONE = frozenset({"judge", "swe"})
"""Verifiers that wait for others much longer than a call costs."""


@dataclass(eq=False, slots=True, kw_only=True)
class Asked:
    """A grading that somebody waits for.

    Attributes:
        task: The task.
        rollout: The rollout.
        verdict: What is waited for.
        failures: Why attempts failed.
    """

    task: Task
    rollout: Rollout
    verdict: asyncio.Future[Verdict]
    failures: list[str] = field(default_factory=list)


def next_call(waiting: deque[Asked], *, num_workers: int) -> list[Asked]:
    """Take from the front what one call carries, at most a worker's share; empty at the end.

    What has failed before goes alone, so that a grading which kills its workers takes down no
    other twice.
    """
    while waiting and waiting[0].verdict.done():  # nobody waits for it any more
        waiting.popleft()
    share = min(MOST_A_CALL, math.ceil(len(waiting) / num_workers))
    call: list[Asked] = []
    while waiting and len(call) < share and (not call or _goes_with(waiting[0], call[0])):
        call.append(waiting.popleft())
    return call


def _goes_with(asked: Asked, other: Asked) -> bool:
    verifier = asked.task.verifier
    has_failed = asked.failures or other.failures
    return verifier == other.task.verifier and verifier not in _ALONE and not has_failed
