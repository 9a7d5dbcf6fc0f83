"""The agent loop: the policy speaks, its calls are carried out, it reads the results, and goes on.

An episode is one rollout. Its tokens are those that were sampled and those of the results, in the
order in which the policy saw them: nothing is rendered or tokenised a second time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from cispo.config import SamplingConfig
from cispo.config.agent import AgentConfig
from cispo.policy.tool_calls import ToolCallError, parse_tool_calls
from cispo.seeding import stream_seed
from cispo.types import Message, PolicyVersion, Rollout, StopReason, Task
from cispo.version_runs import VersionRuns, joined_runs
from rollout.routes import joined_routes
from rollout.tools import Toolbox, readable
from sandboxes.workspace import WorkspaceLostError


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What the policy sampled in one turn; T tokens.

    Attributes:
        token_ids: [T] sampled and forced tokens, the token that ended the turn included.
        logprobs: [T] in nats, of the distribution that was sampled from; 0.0 where forced.
        is_sampled: [T] False on tokens that the engine forced.
        routed_experts: [T M] see `cispo.types.Rollout`; None where the engine keeps no record.
        stop_reason: Why it ended.
        version_runs: Which weights drew its sampled tokens; see `cispo.types.Rollout`.
    """

    token_ids: Sequence[int]
    logprobs: Sequence[float]
    is_sampled: Sequence[bool]
    stop_reason: StopReason
    version_runs: VersionRuns
    routed_experts: bytes | None = None


class TurnSampler(Protocol):
    """A policy that continues tokens."""

    async def sample_turn(self, prompt: Sequence[int], *, seed: int, max_new_tokens: int) -> Turn:
        """Sample one turn after these tokens."""


class Wording(Protocol):
    """Turns words into tokens and back, in the policy's own format."""

    def prompt(self, task: Task) -> list[int]:
        """Return the tokens up to where the policy begins to speak."""

    def text(self, token_ids: Sequence[int], *, has_ended: bool) -> str:
        """Return what the policy said; a token that ended the turn is no part of it."""

    def results(self, messages: Sequence[Message]) -> list[int]:
        """Return the tokens between two turns of the policy, after the last that it sampled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budgets:
    """What an episode may use.

    Attributes:
        max_turns: Turns of the policy.
        max_turn_tokens: Tokens of one turn.
        max_tokens: Tokens of the whole episode, prompt and results included.
        wall_seconds: Time after which no turn begins.
    """

    max_turns: int
    max_turn_tokens: int
    max_tokens: int
    wall_seconds: float

    @classmethod
    def of(cls, settings: AgentConfig, sampling: SamplingConfig) -> Budgets:
        """Read them from a configuration."""
        return cls(
            max_turns=settings.max_turns,
            max_turn_tokens=sampling.max_new_tokens,
            max_tokens=settings.max_tokens,
            wall_seconds=settings.wall_seconds,
        )


@dataclass(slots=True)
class _Transcript:
    """The tokens of an episode so far."""

    token_ids: list[int]
    action_mask: list[bool]
    logprobs: list[float]
    said: list[str] = field(default_factory=list)
    version_runs: list[tuple[int, int]] = field(default_factory=list)
    routes: list[tuple[int, bytes | None]] = field(default_factory=list)

    def add_turn(self, turn: Turn, text: str) -> None:
        self.token_ids += turn.token_ids
        self.action_mask += turn.is_sampled
        self.logprobs += turn.logprobs
        self.routes.append((len(turn.token_ids), turn.routed_experts))
        self.said.append(text)
        self.version_runs += turn.version_runs

    def add_results(self, token_ids: Sequence[int]) -> None:
        self.token_ids += token_ids
        self.action_mask += [False] * len(token_ids)
        self.logprobs += [0.0] * len(token_ids)
        self.routes.append((len(token_ids), None))


async def run_episode(
    task: Task,
    policy: TurnSampler,
    wording: Wording,
    tools: Toolbox,
    budgets: Budgets,
    *,
    seed: int,
) -> Rollout:
    """Play one episode.

    It ends when the policy submits, when it calls nothing and nobody answers, or when who answers
    is done (`END_OF_TURN`); when turns or time are used up (`TURN_LIMIT`), when its tokens are
    (`LENGTH`), and when a turn is cut off (as that was). Whatever it left in its workspace by then
    is submitted. Where the workspace is lost on the way it is `ABORTED`, and nothing can be graded.

    Args:
        task: The task.
        policy: Who speaks.
        wording: The policy's format.
        tools: What it can do.
        budgets: What it may use.
        seed: Fixes its tokens for given weights and results.

    Returns:
        The rollout, `action_mask` False on prompt and results.

    Raises:
        WorkspaceLostError: The workspace was lost before the policy spoke.
    """
    prompt = wording.prompt(task)
    transcript = _Transcript([], [], [])
    transcript.add_results(prompt)
    submission: str | None = None
    try:
        reason = await _play(transcript, policy, wording, tools, budgets, seed)
        submission = await tools.submission()
    except WorkspaceLostError:
        if not any(transcript.action_mask):
            raise
        reason = StopReason.ABORTED
    version_runs = joined_runs(transcript.version_runs)
    return Rollout(
        task_id=task.task_id,
        token_ids=tuple(transcript.token_ids),
        action_mask=tuple(transcript.action_mask),
        behaviour_logprobs=tuple(transcript.logprobs),
        text="\n".join(transcript.said),
        stop_reason=reason,
        oldest_version=PolicyVersion(version_runs[0][0]),
        newest_version=PolicyVersion(version_runs[-1][0]),
        version_runs=version_runs,
        submission=submission,
        routed_experts=joined_routes(transcript.routes),
    )


async def _play(
    transcript: _Transcript,
    policy: TurnSampler,
    wording: Wording,
    tools: Toolbox,
    budgets: Budgets,
    seed: int,
) -> StopReason:
    started = time.monotonic()
    for number in range(budgets.max_turns):
        if number and time.monotonic() - started > budgets.wall_seconds:
            break
        room = budgets.max_tokens - len(transcript.token_ids)
        if number and room <= 0:
            return StopReason.LENGTH
        turn = await policy.sample_turn(
            tuple(transcript.token_ids),
            seed=stream_seed(seed, number),
            max_new_tokens=max(min(budgets.max_turn_tokens, room), 1),
        )
        has_ended = turn.stop_reason is StopReason.END_OF_TURN
        said = wording.text(turn.token_ids, has_ended=has_ended)
        transcript.add_turn(turn, said)
        if not has_ended:
            return turn.stop_reason
        results, is_over = await _carry_out(said, tools)
        if is_over:
            return StopReason.END_OF_TURN
        if number + 1 < budgets.max_turns:
            transcript.add_results(wording.results(results))
    return StopReason.TURN_LIMIT


async def _carry_out(said: str, tools: Toolbox) -> tuple[list[Message], bool]:
    """Carry out the calls of a turn; return what came of them, and whether the policy is done.

    A turn without a call is for whoever the policy speaks with.
    """
    try:
        turn = parse_tool_calls(said)
    except ToolCallError as error:
        return [Message(role="tool", content=f"error: {error}")], False
    if not turn.tool_calls:
        heard = await tools.tell(turn.content)
        return [Message(role="user", content=heard.text)], heard.ends_episode
    results: list[Message] = []
    for call in turn.tool_calls:
        result = await tools.call(call)
        if result.ends_episode:
            return results, True
        results.append(Message(role="tool", content=result.text, name=readable(call.name)))
    return results, False
