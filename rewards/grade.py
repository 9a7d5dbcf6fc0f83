"""Judges rollouts: hands the answer to the task's verifier and adds form and length."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cispo.types import Graded, Rollout, StopReason, Task, Ungraded, Verdict
from rewards.code import CodeGrader
from rewards.explained import Explained
from rewards.extract import after_thought, math_answer, program, tagged_answer
from rewards.grader_process import GraderProcess
from rewards.shaping import format_part, overlong_part, weighted_sum

Judged = Mapping[str, float] | Explained | Ungraded
Judge = Callable[[str, Mapping[str, Any]], Awaitable[Judged]]
"""Takes what a rollout answers and the task's truth; returns named parts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shaping:
    """What a reward is besides correctness.

    Attributes:
        weights: Weight of each named part.
        max_tokens: Budget of a rollout that does not say its own.
        overlong_cache_tokens: Slope of the penalty for length; 0 for none.
    """

    weights: Mapping[str, float]
    max_tokens: int
    overlong_cache_tokens: int


class GradingVerifier:
    """The `Verifier` that does the work, in this process and its children."""

    def __init__(self, judges: Mapping[str, Judge], shaping: Shaping) -> None:
        """Take one judge a verifier's name."""
        self._judges = judges
        self._shaping = shaping

    async def grade(self, task: Task, rollout: Rollout) -> Verdict:
        """Judge one rollout; see `cispo.ports.Verifier`."""
        if rollout.stop_reason is StopReason.ABORTED:
            return Ungraded(cause="the rollout was aborted")
        judge = self._judges.get(task.verifier)
        if judge is None:
            return Ungraded(cause=f"no verifier {task.verifier!r}")
        answer = rollout.text if rollout.submission is None else rollout.submission
        judged = await judge(answer, task.truth)
        if isinstance(judged, Ungraded):
            return judged
        explained = judged if isinstance(judged, Explained) else Explained(parts=judged)
        parts = {
            **explained.parts,
            "format": format_part(rollout.text),
            "overlong": overlong_part(
                rollout.num_action_tokens,
                max_tokens=rollout.token_budget or self._shaping.max_tokens,
                cache_tokens=self._shaping.overlong_cache_tokens,
            ),
        }
        return Graded(
            reward=weighted_sum(parts, self._shaping.weights),
            parts=parts,
            output=explained.output,
        )


def math_judge(process: GraderProcess) -> Judge:
    """Return the judge of mathematics."""

    async def judge(text: str, truth: Mapping[str, Any]) -> Judged:
        return await process.grade("math", math_answer(text), truth)

    return judge


def logic_judge(process: GraderProcess) -> Judge:
    """Return the judge of reasoning-gym's puzzles."""

    async def judge(text: str, truth: Mapping[str, Any]) -> Judged:
        return await process.grade("logic", tagged_answer(text), truth)

    return judge


def recall_judge(process: GraderProcess) -> Judge:
    """Return the judge of questions about long prompts."""

    async def judge(text: str, truth: Mapping[str, Any]) -> Judged:
        return await process.grade("recall", after_thought(text), truth)

    return judge


def own_judge(process: GraderProcess, reference: str) -> Judge:
    """Return the judge that a user brings, who sees what follows the thought."""

    async def judge(text: str, truth: Mapping[str, Any]) -> Judged:
        return await process.grade(reference, after_thought(text), truth)

    return judge


def code_judge(grader: CodeGrader) -> Judge:
    """Return the judge of programs."""

    async def judge(text: str, truth: Mapping[str, Any]) -> Judged:
        return await grader.explain(program(text), truth)

    return judge
