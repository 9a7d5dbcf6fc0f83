"""Plays the pipeline event by event: lengths in; staleness, bubbles, throughput out (stdlib only).

The rules are those of `cispo.stream`: groups are delivered in the order in which their tasks
started, sampling runs ahead by `max_staleness` iterations at most, and a dropped group is replaced
by the next task. A group is sampled by the engine with the fewest outstanding rollouts, and graded
when its last rollout is finished. Evaluations, checkpoints and failures are left out.
"""

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, field

from cispo.plan.lockstep import LockstepEngine
from cispo.plan.simulated import SimulatedIteration, Simulation

_Key = tuple[int, int]
"""A rollout: the index of its group, and its place there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What there is to do.

    Attributes:
        iterations: Rollout batches that are learned from.
        tasks_per_iteration: Groups of an iteration.
        group_size: G, rollouts of a task.
        max_staleness: Iterations that sampling may run ahead.
        length: Action tokens of a rollout, by the index of its group and its place there.
        is_dropped: Whether dynamic sampling drops a group, by index.
    """

    iterations: int
    tasks_per_iteration: int
    group_size: int
    max_staleness: int
    length: Callable[[int, int], int]
    is_dropped: Callable[[int], bool] = lambda _: False


@dataclass(frozen=True, slots=True, kw_only=True)
class Speeds:
    """How fast it is done.

    Attributes:
        num_engines: Engines.
        max_sequences: Sequences that one engine decodes at once.
        step_seconds: Of an engine's step with so many sequences.
        learn_seconds: Of an iteration's updates, by the action tokens in them.
        num_graders: Rollouts that are graded at once.
        grade_seconds: Of one rollout.
        publish_seconds: From the last update until the engines have the weights.
        pause_seconds: For which engines stand still when they arrive.
    """

    num_engines: int
    max_sequences: int
    step_seconds: Callable[[int], float]
    learn_seconds: Callable[[int], float]
    num_graders: int = 1
    grade_seconds: float = 0.0
    publish_seconds: float = 0.0
    pause_seconds: float = 0.0


@dataclass(slots=True)
class _Group:
    """A group under way.

    Attributes:
        unfinished: Rollouts that are not sampled yet.
        versions: Policy version with which each rollout began.
        is_graded: Whether it can be delivered.
    """

    unfinished: int
    versions: list[int]
    is_graded: bool = False


def simulate(work: Workload, speeds: Speeds) -> Simulation:
    """Play all iterations; the same work and speeds always give the same numbers."""
    player = _Player(work, speeds)
    player.play()
    return player.result()


@dataclass(slots=True, eq=False)
class _Player:
    """The state of the pipeline, and what happens at each event."""

    work: Workload
    speeds: Speeds
    now: float = 0.0
    _events: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _num_events: int = 0
    _engines: list[LockstepEngine[_Key]] = field(default_factory=list)
    _epochs: list[int] = field(default_factory=list)
    _graders: list[float] = field(default_factory=list)
    _groups: dict[int, _Group] = field(default_factory=dict)
    _next_start: int = 0
    _cursor: int = 0
    _unreleased: int = 0
    _version: int = 1
    _waits_since: float | None = 0.0
    _done: list[SimulatedIteration] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._engines = [
            LockstepEngine(self.speeds.max_sequences, self.speeds.step_seconds)
            for _ in range(self.speeds.num_engines)
        ]
        self._epochs = [0] * self.speeds.num_engines
        self._graders = [0.0] * self.speeds.num_graders
        self._unreleased = self.work.iterations

    def play(self) -> None:
        """Run until the last iteration is learned from."""
        for _ in range(1 + self.work.max_staleness):
            self._release()
        while len(self._done) < self.work.iterations:
            self.now, _, happen = heapq.heappop(self._events)
            happen()

    def result(self) -> Simulation:
        """What was seen."""
        return Simulation(
            iterations=tuple(self._done),
            wall_seconds=self.now,
            engine_busy_seconds=tuple(engine.busy_seconds for engine in self._engines),
            sequence_seconds=sum(engine.sequence_seconds for engine in self._engines),
            sampled_tokens=sum(engine.sampled_tokens for engine in self._engines),
            max_sequences=self.speeds.max_sequences,
        )

    def _at(self, time: float, happen: Callable[[], None]) -> None:
        self._num_events += 1
        heapq.heappush(self._events, (time, self._num_events, happen))

    def _release(self) -> None:
        if self._unreleased > 0:
            self._unreleased -= 1
            for _ in range(self.work.tasks_per_iteration):
                self._start_group()

    def _start_group(self) -> None:
        index = self._next_start
        self._next_start += 1
        size = self.work.group_size
        self._groups[index] = _Group(unfinished=size, versions=[0] * size)
        engine = min(range(len(self._engines)), key=lambda i: self._engines[i].outstanding)
        members = [(self.work.length(index, m), (index, m)) for m in range(size)]
        self._note_started(self._engines[engine].submit(self.now, members))
        self._watch(engine)

    def _note_started(self, keys: list[_Key]) -> None:
        for index, member in keys:
            self._groups[index].versions[member] = self._version

    def _watch(self, engine: int) -> None:
        """Look again when the engine's next sequence finishes, unless its batch changes before."""
        self._epochs[engine] += 1
        epoch, time = self._epochs[engine], self._engines[engine].next_finish()
        if time < math.inf:
            self._at(time, lambda: self._engine_finishes(engine, epoch))

    def _engine_finishes(self, engine: int, epoch: int) -> None:
        if epoch != self._epochs[engine]:
            return
        done, started = self._engines[engine].finish(self.now)
        self._note_started(started)
        self._watch(engine)
        for index, _ in done:
            group = self._groups[index]
            group.unfinished -= 1
            if group.unfinished == 0:
                self._grade(index)

    def _grade(self, index: int) -> None:
        """Give a group's rollouts to the graders that are free first."""
        end = self.now
        for _ in range(self.work.group_size):
            # Whoever is free first, at times that only rise: the last one ends last.
            end = max(self._graders[0], self.now) + self.speeds.grade_seconds
            heapq.heapreplace(self._graders, end)
        self._at(end, lambda: self._judged(index))

    def _judged(self, index: int) -> None:
        self._groups[index].is_graded = True
        if self.work.is_dropped(index):
            self._start_group()
        self._take_if_ready()

    def _take_if_ready(self) -> None:
        if self._waits_since is None:
            return
        window: list[int] = []
        kept = 0
        while kept < self.work.tasks_per_iteration:
            group = self._groups.get(self._cursor + len(window))
            if group is None or not group.is_graded:
                return
            window.append(self._cursor + len(window))
            kept += not self.work.is_dropped(window[-1])
        self._cursor += len(window)
        self._learn(window, waited=self.now - self._waits_since)

    def _learn(self, window: list[int], *, waited: float) -> None:
        self._waits_since = None
        kept = [index for index in window if not self.work.is_dropped(index)]
        sizes = range(self.work.group_size)
        tokens = sum(self.work.length(index, m) for index in kept for m in sizes)
        seconds = self.speeds.learn_seconds(tokens)
        staleness = tuple(
            self._version - version for index in kept for version in self._groups[index].versions
        )
        for index in window:
            del self._groups[index]
        iteration = SimulatedIteration(
            groups=tuple(kept),
            num_dropped=len(window) - len(kept),
            learned_tokens=tokens,
            staleness=staleness,
            taken_at=self.now,
            waited_seconds=waited,
            learn_seconds=seconds,
        )
        self._at(self.now + seconds, self._publish)
        published = self.now + seconds + self.speeds.publish_seconds
        self._at(published, lambda: self._publish_ends(iteration))

    def _publish(self) -> None:
        if self.speeds.pause_seconds > 0:
            for index, engine in enumerate(self._engines):
                engine.pause(self.now, self.speeds.pause_seconds)
                self._watch(index)

    def _publish_ends(self, iteration: SimulatedIteration) -> None:
        self._version += 1
        self._done.append(iteration)
        self._release()
        self._waits_since = self.now
        self._take_if_ready()
