"""Stand-ins for the ports: deterministic, in memory, with latencies and failures on demand."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from cispo.types import (
    Graded,
    Group,
    Lesson,
    Message,
    Metrics,
    PolicyVersion,
    Rollout,
    RolloutKind,
    Sample,
    StopReason,
    Task,
    Ungraded,
    Verdict,
)


def make_task(index: int = 0, *, source: str = "sums") -> Task:
    return Task(
        task_id=f"task-{index}",
        messages=(Message(role="user", content=f"{index} + 1 = ?"),),
        verifier="math",
        truth={"answer": str(index + 1)},
        source=source,
    )


def make_rollout(
    task_id: str = "task-0",
    *,
    num_action_tokens: int = 3,
    num_prompt_tokens: int = 2,
    stop_reason: StopReason = StopReason.END_OF_TURN,
    oldest_version: int = 1,
    newest_version: int | None = None,
    text: str = "1",
) -> Rollout:
    length = num_prompt_tokens + num_action_tokens
    return Rollout(
        task_id=task_id,
        token_ids=tuple(range(length)),
        action_mask=(False,) * num_prompt_tokens + (True,) * num_action_tokens,
        behaviour_logprobs=(0.0,) * num_prompt_tokens + (-0.5,) * num_action_tokens,
        text=text,
        stop_reason=stop_reason,
        oldest_version=PolicyVersion(oldest_version),
        newest_version=PolicyVersion(newest_version or oldest_version),
    )


def graded(reward: float, **parts: float) -> Graded:
    return Graded(reward=reward, parts={"correct": reward, **parts})


def make_group(
    rewards: Sequence[float | None],
    *,
    index: int = 0,
    source: str = "sums",
    lengths: Sequence[int] | None = None,
    oldest_version: int = 1,
    stop_reason: StopReason = StopReason.END_OF_TURN,
) -> Group:
    """A group with these rewards; None is `Ungraded`."""
    task = make_task(index, source=source)
    return Group(
        index=index,
        task=task,
        rollouts=tuple(
            make_rollout(
                task.task_id,
                num_action_tokens=length,
                oldest_version=oldest_version,
                stop_reason=stop_reason,
            )
            for length in lengths or [3] * len(rewards)
        ),
        verdicts=tuple(
            Ungraded(cause="sandbox lost") if reward is None else graded(reward)
            for reward in rewards
        ),
    )


class FakeTasks:
    """The task sequence task-0, task-1, ..."""

    def task(self, index: int) -> Task:
        return make_task(index)


class FakeWeights:
    """Counts publishes; `version` is what an engine samples from."""

    def __init__(self, *, version: int = 0) -> None:
        self.version = version

    async def publish(self) -> PolicyVersion:
        await asyncio.sleep(0)
        self.version += 1
        return PolicyVersion(self.version)


class FakeEngine:
    """Samples rollouts that carry the weights' version at start and at end.

    Args:
        weights: Where the version is read.
        latency: Seconds that sampling a task takes, by task id.
        fails: Task ids on which sampling raises the given error.
    """

    def __init__(
        self,
        weights: FakeWeights | None = None,
        *,
        latency: Callable[[str], float] = lambda _: 0.0,
        fails: Mapping[str, Exception] | None = None,
    ) -> None:
        self.weights = weights or FakeWeights(version=1)
        self.latency = latency
        self.fails = fails or {}
        self.started: list[str] = []
        self.seeds: dict[str, int] = {}
        self.num_active = 0

    async def sample(self, task: Task, count: int, *, seed: int) -> Sequence[Rollout]:
        self.started.append(task.task_id)
        self.seeds[task.task_id] = seed
        version = self.weights.version
        self.num_active += 1
        try:
            await asyncio.sleep(self.latency(task.task_id))
        finally:
            self.num_active -= 1
        if task.task_id in self.fails:
            raise self.fails[task.task_id]
        return [
            make_rollout(
                task.task_id,
                num_action_tokens=1 + (seed + member) % 5,
                oldest_version=version,
                newest_version=self.weights.version,
                text=str(member),
            )
            for member in range(count)
        ]


class FakeMeter:
    """Counts laps."""

    def __init__(self) -> None:
        self.num_laps = 0

    async def lap(self) -> Metrics:
        self.num_laps += 1
        return {"engine/decode_steps": float(self.num_laps)}


class FakeVerifier:
    """Grades by task id and member; a member is the text of its rollout."""

    def __init__(self, judge: Callable[[str, int], float | None] | None = None) -> None:
        self.judge = judge or (lambda _, member: float(member % 2))

    async def grade(self, task: Task, rollout: Rollout) -> Verdict:
        await asyncio.sleep(0)
        reward = self.judge(task.task_id, int(rollout.text))
        return Ungraded(cause="sandbox lost") if reward is None else graded(reward)


class FakeLearner:
    """Remembers what it was given."""

    def __init__(self, *, on_step: Callable[[], Awaitable[None]] | None = None) -> None:
        self.steps: list[list[Sample]] = []
        self.on_step = on_step

    async def step(self, samples: Sequence[Sample]) -> Metrics:
        if self.on_step is not None:
            await self.on_step()
        self.steps.append(list(samples))
        return {"learn/loss": float(len(self.steps)), "learn/tokens": 10.0 * len(samples)}

    async def save(self, folder: Path) -> None:
        (folder / "learner").write_text(str(len(self.steps)))

    async def restore(self, folder: Path) -> None:
        self.steps = [[] for _ in range(int((folder / "learner").read_text()))]


class FakeTracker:
    """Remembers what was logged."""

    def __init__(self) -> None:
        self.lines: list[tuple[int, dict[str, float]]] = []
        self.groups: dict[int, list[Group]] = {}
        self.held_out: dict[int, list[Group]] = {}
        self.lessons: dict[int, list[Lesson]] = {}
        self.summary: Mapping[str, object] | None = None

    def log(self, step: int, metrics: Metrics) -> None:
        self.lines.append((step, dict(metrics)))

    def record(
        self,
        step: int,
        groups: Sequence[Group],
        *,
        kind: RolloutKind = RolloutKind.TRAINING,
        lessons: Sequence[Lesson] = (),
    ) -> None:
        recorded = self.groups if kind is RolloutKind.TRAINING else self.held_out
        recorded[step] = list(groups)
        self.lessons[step] = list(lessons)

    def finish(self, summary: Mapping[str, object]) -> None:
        self.summary = summary


class FakeProgress:
    """Remembers phases, counts, and what was waited for."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.done: dict[str, int] = {}
        self.waited: list[str] = []

    def start(self, phase: str, total: int) -> None:
        self.events.append(f"start {phase} {total}")
        self.done[phase] = 0

    def advance(self, phase: str, count: int = 1) -> None:
        self.done[phase] += count

    def waiting(self, phase: str, what: str) -> None:
        self.waited.append(what)

    def finish(self, phase: str) -> None:
        self.events.append(f"finish {phase}")
