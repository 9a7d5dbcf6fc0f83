"""An engine that advances all its sequences one token a step (stdlib only)."""

import heapq
import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Key = TypeVar("Key")

_ROUNDING = 1e-9
"""Tokens within which two sequences finish at once."""


class LockstepEngine(Generic[Key]):
    """Keeps time between changes of its batch alone: in between, every sequence is equally fast.

    Args:
        max_sequences: That run at once; others wait in the order in which they came.
        step_seconds: Of one step with so many sequences.

    Attributes:
        outstanding: Sequences that run or wait.
        busy_seconds: Time in which at least one ran.
        sequence_seconds: The same, times the sequences that ran.
        sampled_tokens: Of sequences that are finished.
    """

    def __init__(self, max_sequences: int, step_seconds: Callable[[int], float]) -> None:
        self._max_sequences = max_sequences
        self._step_seconds = step_seconds
        self._waiting: deque[tuple[int, Key]] = deque()
        self._running: list[tuple[float, int, int, Key]] = []
        self._progress = 0.0
        self._now = 0.0
        self._paused_until = 0.0
        self._num_started = 0
        self.outstanding = 0
        self.busy_seconds = 0.0
        self.sequence_seconds = 0.0
        self.sampled_tokens = 0

    def submit(self, now: float, sequences: Sequence[tuple[int, Key]]) -> list[Key]:
        """Take sequences with their numbers of tokens; return the keys of those that start."""
        self._advance(now)
        self._waiting.extend(sequences)
        self.outstanding += len(sequences)
        return self._admit()

    def pause(self, now: float, seconds: float) -> None:
        """Stand still for so long, as for new weights."""
        self._advance(now)
        self._paused_until = now + seconds

    def next_finish(self) -> float:
        """When the next sequence finishes if nothing changes; infinite where none runs."""
        if not self._running:
            return math.inf
        left = max(self._running[0][0] - self._progress, 0.0)
        start = max(self._now, self._paused_until)
        return start + left * self._step_seconds(len(self._running))

    def finish(self, now: float) -> tuple[list[Key], list[Key]]:
        """Return the keys of those that are finished by now, and of those that start instead."""
        self._advance(now)
        done: list[Key] = []
        while self._running and self._running[0][0] <= self._progress + _ROUNDING:
            _, _, tokens, key = heapq.heappop(self._running)
            self.sampled_tokens += tokens
            done.append(key)
        self.outstanding -= len(done)
        return done, self._admit()

    def _advance(self, now: float) -> None:
        moving = now - max(self._now, min(self._paused_until, now))
        count = len(self._running)
        if count and moving > 0:
            self._progress += moving / self._step_seconds(count)
            self.busy_seconds += moving
            self.sequence_seconds += moving * count
        self._now = now

    def _admit(self) -> list[Key]:
        started: list[Key] = []
        while self._waiting and len(self._running) < self._max_sequences:
            tokens, key = self._waiting.popleft()
            self._num_started += 1
            entry = (self._progress + tokens, self._num_started, tokens, key)
            heapq.heappush(self._running, entry)
            started.append(key)
        return started
