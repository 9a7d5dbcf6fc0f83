"""The nouns of the framework: frozen records whose illegal states cannot be built (stdlib only)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, NewType, TypeAlias

from cispo.version_runs import VersionRuns

PolicyVersion = NewType("PolicyVersion", int)
"""How often the learner has published; 1 is the first publish, of the initial weights."""

Metrics: TypeAlias = Mapping[str, float]
"""Numbers by name, `area/what_unit`."""

UNROUTED = 255
"""Stands in `Rollout.routed_experts` where the engine's choice is not known."""

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation, in plain text.

    Attributes:
        role: Who speaks.
        content: What is said; the policy's own turns with its thoughts and calls of tools.
        name: The speaker's name, or of a tool's turn the function whose result it is.
    """

    role: Role
    content: str
    name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A problem and all that judging an answer to it needs.

    Attributes:
        task_id: Unique within its source; stable from run to run.
        messages: The conversation so far; the policy writes the next assistant turn.
        verifier: Name of the verifier that grades answers, for example `"math"`.
        truth: What that verifier needs, as JSON values; never shown to the policy.
        source: The data set or task family, for metrics by source.
        solution: A worked answer for supervised training, or None where there is none.
        pass_rate: Share of right answers that some policy gave before the run, in 0..1, or None
            where nobody measured it.
        is_agentic: Whether the policy acts over several turns, with tools, in the environment that
            `truth` describes, instead of writing one answer.
    """

    task_id: str
    messages: tuple[Message, ...]
    verifier: str
    truth: Mapping[str, object] = field(default_factory=dict)
    source: str = "tasks"
    solution: str | None = None
    pass_rate: float | None = None
    is_agentic: bool = False

    def __post_init__(self) -> None:
        if not self.task_id:
            raise ValueError("task_id is empty")
        if not self.messages:
            raise ValueError(f"task {self.task_id} has no messages")


class RolloutKind(StrEnum):
    """What rollouts were sampled for."""

    TRAINING = "training"
    HELD_OUT = "heldout"


class StopReason(StrEnum):
    """Why a rollout ended."""

    END_OF_TURN = "end_of_turn"
    STOP_STRING = "stop_string"
    LENGTH = "length"
    REPETITION = "repetition"
    TURN_LIMIT = "turn_limit"
    ABORTED = "aborted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One sampled trajectory in tokens, prompt included; T is its whole length.

    Attributes:
        task_id: The task that it answers.
        token_ids: [T] prompt, sampled and tool tokens in order; never re-tokenised.
        action_mask: [T] True exactly where the policy sampled the token.
        behaviour_logprobs: [T] in nats, of the distribution sampled from; 0.0 off the mask.
        text: The sampled tokens as text, without the token that ended the turn.
        stop_reason: Why it ended.
        oldest_version: Version of the weights that sampled its first action token.
        newest_version: Version of the weights that sampled its last action token.
        version_runs: Which weights sampled which action tokens: runs (version, count) in order.
            Filled in where it was one version throughout; empty where only those two are known.
        submission: What it left behind to be graded, such as the diff of an agent's repository;
            None where its text is the answer.
        routed_experts: [T M] one byte each: the experts that the engine chose for each token, all
            layers after one another, or `UNROUTED` in all M places of a token. None where the
            learner's own routers shall choose for all tokens.
        token_budget: Tokens that the engine would have sampled at most; None where that is not one
            number, as with an agent's turns.
    """

    task_id: str
    token_ids: Sequence[int]
    action_mask: Sequence[bool]
    behaviour_logprobs: Sequence[float]
    text: str
    stop_reason: StopReason
    oldest_version: PolicyVersion
    newest_version: PolicyVersion
    version_runs: VersionRuns = ()
    submission: str | None = None
    routed_experts: bytes | None = None
    token_budget: int | None = None

    def __post_init__(self) -> None:
        lengths = {len(self.token_ids), len(self.action_mask), len(self.behaviour_logprobs)}
        if len(lengths) != 1:
            raise ValueError(f"rollout of {self.task_id}: fields have lengths {sorted(lengths)}")
        if not any(self.action_mask):
            raise ValueError(f"rollout of {self.task_id} has no action token")
        if self.oldest_version > self.newest_version:
            raise ValueError(f"rollout of {self.task_id}: oldest version is the newer one")
        if self.oldest_version == self.newest_version and not self.version_runs:
            runs = ((self.oldest_version, self.num_action_tokens),)
            object.__setattr__(self, "version_runs", runs)
        self._check_runs()
        if self.routed_experts is not None and self.num_routes * len(self.token_ids) != len(
            self.routed_experts
        ):
            raise ValueError(
                f"rollout of {self.task_id}: {len(self.routed_experts)} routed experts for "
                f"{len(self.token_ids)} tokens"
            )

    def _check_runs(self) -> None:
        if not self.version_runs:
            return
        versions = [version for version, _ in self.version_runs]
        counted = sum(count for _, count in self.version_runs)
        extremes = (min(versions), max(versions))
        known = (self.oldest_version, self.newest_version)
        if counted != self.num_action_tokens or extremes != known:
            raise ValueError(
                f"rollout of {self.task_id}: version_runs {self.version_runs} are not those of "
                f"{self.num_action_tokens} action tokens of versions {known[0]} to {known[1]}"
            )

    @property
    def num_action_tokens(self) -> int:
        """How many tokens the policy sampled."""
        return sum(self.action_mask)

    @property
    def num_routes(self) -> int:
        """M of `routed_experts`."""
        return len(self.routed_experts or b"") // len(self.token_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class Graded:
    """A verifier's judgement.

    Attributes:
        reward: What the learner sees: the weighted sum of the parts. Finite.
        parts: Named parts before weighting; `"correct"` in 0..1 is always among them.
        output: What the sandbox said, for people; never shown to the policy.
    """

    reward: float
    parts: Mapping[str, float]
    output: str = ""

    def __post_init__(self) -> None:
        if not math.isfinite(self.reward):
            raise ValueError(f"reward is {self.reward}")
        if "correct" not in self.parts:
            raise ValueError(f"parts {sorted(self.parts)} lack 'correct'")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ungraded:
    """No judgement could be made, through no fault of the policy; never a reward of zero.

    Attributes:
        cause: Why.
        is_for_good: Whether the task cannot be judged at all, as its truth cannot be read.
    """

    cause: str
    is_for_good: bool = False


Verdict: TypeAlias = Graded | Ungraded


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A task's rollouts with their verdicts: the unit of advantage.

    Attributes:
        index: Position of the task in the run's task sequence, from 0.
        task: The task.
        rollouts: G rollouts.
        verdicts: One verdict a rollout, in the same order.
    """

    index: int
    task: Task
    rollouts: tuple[Rollout, ...]
    verdicts: tuple[Verdict, ...]

    def __post_init__(self) -> None:
        if len(self.rollouts) != len(self.verdicts) or not self.rollouts:
            raise ValueError(
                f"group {self.index}: {len(self.rollouts)} rollouts, {len(self.verdicts)} verdicts"
            )

    @property
    def graded(self) -> tuple[tuple[Rollout, Graded], ...]:
        """The rollouts that were judged, with their judgements."""
        pairs = zip(self.rollouts, self.verdicts, strict=True)
        return tuple((r, v) for r, v in pairs if isinstance(v, Graded))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A rollout with its advantage: the unit of learning.

    Attributes:
        rollout: The trajectory.
        advantage: A of eq. 2, the same for every action token.
        group_index: Index of its group, which prompt-averaged token weights need.
        anchor_logprobs: [T] in nats, what the ratio divides by; None where that is the rollout's
            `behaviour_logprobs`. See `cispo.anchor`.
    """

    rollout: Rollout
    advantage: float
    group_index: int
    anchor_logprobs: Sequence[float] | None = None

    def __post_init__(self) -> None:
        length = len(self.rollout.token_ids)
        if self.anchor_logprobs is not None and len(self.anchor_logprobs) != length:
            raise ValueError(
                f"sample of {self.rollout.task_id}: {len(self.anchor_logprobs)} anchors for "
                f"{length} tokens"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What an iteration made of a sample, for people who look at single rollouts.

    Attributes:
        sample: What was learned from.
        logprobs: [t] with t <= T, in nats: log pi of its first tokens after the iteration's
            updates, 0.0 off the action mask; empty where nobody measured it.
    """

    sample: Sample
    logprobs: Sequence[float] = ()
