"""What a rollout actor asks of the engine inside it (loads no torch)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from cispo.types import PolicyVersion, StopReason
from cispo.version_runs import VersionRuns

if TYPE_CHECKING:
    from cispo.config import SamplingConfig
    from cispo.weights.buckets import WeightBucket
    from rollout.token_text import TokenText


TopLogprobs: TypeAlias = Sequence[tuple[int, float]]
"""The likeliest tokens at one position with their log-probabilities in nats, likeliest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How a request is sampled; fields as in `cispo.config.SamplingConfig`."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    max_new_tokens: int
    stop: tuple[str, ...] = ()
    max_thinking_tokens: int = 0
    max_answer_tokens: int = 0
    thinking_jitter_tokens: int = 0
    interruption: str = ""

    @classmethod
    def of(cls, config: SamplingConfig) -> SamplingParams:
        """Freeze a configuration."""
        return cls(
            temperature=config.temperature,
            top_p=config.top_p,
            top_k=config.top_k,
            min_p=config.min_p,
            max_new_tokens=config.max_new_tokens,
            stop=tuple(config.stop),
            max_thinking_tokens=config.max_thinking_tokens,
            max_answer_tokens=config.max_answer_tokens,
            thinking_jitter_tokens=config.thinking_jitter_tokens,
            interruption=config.interruption,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StopRules:
    """When a sequence ends before its budget; the same for all requests of an engine.

    Attributes:
        token_ids: A token among these ends its sequence and belongs to it.
        repetition_tokens: So many tokens in a row above the probability end it; 0 never does.
        repetition_probability: See `repetition_tokens`.
        text: Of the tokenizer; None where no request has stop texts or budgets of thoughts.
    """

    token_ids: frozenset[int]
    repetition_tokens: int = 0
    repetition_probability: float = 0.99
    text: TokenText | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A group of rollouts of one prompt.

    Attributes:
        request_id: Unique among the requests of an engine.
        task_id: For messages.
        prompt: Token ids, at least one.
        seeds: One a member of the group; it fixes that member's tokens for given weights.
        sampling: The same for all members.
        stream: Whether `Backend.increments` hands out its tokens while they are sampled.
        top_logprobs: So many of the likeliest tokens are reported at each position.
    """

    request_id: int
    task_id: str
    prompt: tuple[int, ...]
    seeds: tuple[int, ...]
    sampling: SamplingParams
    stream: bool = False
    top_logprobs: int = 0

    def __post_init__(self) -> None:
        if not self.prompt:
            raise ValueError(f"the prompt of task {self.task_id} is empty")
        if not self.seeds:
            raise ValueError(f"a request for task {self.task_id} asks for no rollout")
        if self.top_logprobs < 0:
            raise ValueError(f"task {self.task_id}: top_logprobs={self.top_logprobs} is negative")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """One member of a request, sampled to its end.

    Attributes:
        request_id: Its request.
        member: Its position in the group.
        token_ids: T sampled and forced tokens, a stop token included; those of a stop string too.
        logprobs: [T] in nats, of the distribution that was sampled from; 0.0 where forced.
        full_logprobs: [T] in nats, after temperature and before truncation; 0.0 where forced.
            `full_logprobs - logprobs` is the log of the mass that truncation kept.
        is_sampled: [T] False on tokens that the engine forced, such as the end of thinking.
        top_logprobs: [T] the likeliest tokens by `full_logprobs`; None where not asked for.
        routed_experts: [T M] the experts that its tokens went to when they were read, as in
            `cispo.types.Rollout`; None where the engine keeps no record.
        stop_reason: Why it ended.
        version_runs: Which weights drew its sampled tokens; see `cispo.types.Rollout`.
    """

    request_id: int
    member: int
    token_ids: Sequence[int]
    logprobs: Sequence[float]
    full_logprobs: Sequence[float]
    is_sampled: Sequence[bool]
    top_logprobs: Sequence[TopLogprobs] | None = None
    routed_experts: bytes | None = None
    stop_reason: StopReason
    version_runs: VersionRuns

    @property
    def oldest_version(self) -> PolicyVersion:
        """Weights that sampled its first token."""
        return PolicyVersion(self.version_runs[0][0])

    @property
    def newest_version(self) -> PolicyVersion:
        """Weights that sampled its last token."""
        return PolicyVersion(self.version_runs[-1][0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Increment:
    """Tokens of one member since it was last asked for; fields as in `Finished`."""

    request_id: int
    member: int
    token_ids: Sequence[int]
    logprobs: Sequence[float]
    full_logprobs: Sequence[float]
    top_logprobs: Sequence[TopLogprobs] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspended:
    """A request that was taken out of an engine with all that it needs to go on later.

    Attributes:
        request: The request.
        state: What the engine knows of its unfinished members; only that engine reads it, or one
            like it in another process.
    """

    request: Request
    state: Any


@dataclass(slots=True, kw_only=True)
class EngineStatistics:
    """What an engine has done since it started.

    Attributes:
        sampled_tokens: Tokens drawn.
        prefill_tokens: Prompt tokens computed, a shared prompt once.
        decode_steps: Steps in which at least one sequence advanced.
        busy_seconds: Wall time inside `Backend.step`.
        prefix_hits: Prompts whose beginning was kept from another one.
        prefix_saved_tokens: Prompt tokens that were therefore not computed.
        prefix_evictions: Kept beginnings that were dropped for want of room.
        prefix_bytes: Memory of those that are kept now.
        pages_used: Pages of keys and values in use now.
        pages_peak: Most that were in use after a step; counted by `EngineDriver`.
        load_seconds: Wall time in which weights were replaced; counted by `EngineDriver`.
        pause_seconds: The part of it for which sequences stood still; counted there too.
    """

    sampled_tokens: int = 0
    prefill_tokens: int = 0
    decode_steps: int = 0
    busy_seconds: float = 0.0
    prefix_hits: int = 0
    prefix_saved_tokens: int = 0
    prefix_evictions: int = 0
    prefix_bytes: int = 0
    pages_used: int = 0
    pages_peak: int = 0
    load_seconds: float = 0.0
    pause_seconds: float = 0.0


class Backend(Protocol):
    """An engine that lives in one process and is driven by one caller.

    Results of a member depend on the weights, the prompt, the member's seed and the sampling alone.
    """

    @property
    def num_active(self) -> int:
        """Sequences that are running or waiting."""

    @property
    def statistics(self) -> EngineStatistics:
        """Counts since the start."""

    def start(self, request: Request) -> None:
        """Accept a request.

        Raises:
            ValueError: The request can never be served.
        """

    def abort(self, request_id: int) -> None:
        """Forget a request; nothing of it is returned any more."""

    def increments(self) -> list[Increment]:
        """Return what requests with `stream` got since the last call, a finished member's included.

        To be called after every step in which such a request is running.
        """

    def step(self) -> list[Finished]:
        """Advance every running sequence by one token, and admit waiting ones.

        Raises:
            DivergedError: Logits are not finite; the message names the task.
        """

    def load_weights(self, version: PolicyVersion, buckets: Iterable[WeightBucket]) -> str:
        """Replace the weights; running sequences go on with the new ones.

        Nothing that was derived from the old weights may be used any more, be it a tensor or what a
        prompt left behind; what running sequences keep, the engine's documentation says.

        Returns:
            `export_checksum` of what arrived.

        Raises:
            WeightSyncError: The buckets are not the whole model, or changed on the way.
        """


class SuspendingBackend(Backend, Protocol):
    """An engine whose requests can be taken out and go on later; which one can, its type says."""

    def suspend(self, request_id: int) -> Suspended:
        """Take an unfinished request out of the engine, to be resumed later.

        Members that have ended stay ended, and increments that were not fetched yet still can be.

        Raises:
            ValueError: There is no such request.
        """

    def resume(self, suspended: Suspended) -> None:
        """Go on with a suspended request; its tokens are those of an uninterrupted one."""


def refuse_beyond(request: Request, limit: int | None) -> None:
    """Refuse a request whose tokens could exceed a model's positions.

    Raises:
        ValueError: With what it asks for and the limit.
    """
    longest = len(request.prompt) + request.sampling.max_new_tokens
    if limit is not None and longest > limit:
        raise ValueError(
            f"task {request.task_id}: {len(request.prompt)} prompt tokens and max_new_tokens="
            f"{request.sampling.max_new_tokens} exceed max_position_embeddings={limit}"
        )


def refuse_features(request: Request, engine: str, *features: str) -> None:
    """Refuse a request that uses what an engine cannot do.

    Args:
        request: The request.
        engine: Name of the engine, for the message.
        features: Fields of the request or of its sampling that must have their defaults.

    Raises:
        ValueError: It names the first such field and its value.
    """
    for name in features:
        value = getattr(request.sampling if hasattr(request.sampling, name) else request, name)
        if value:
            raise ValueError(
                f"task {request.task_id}: {name}={value!r} is not for rollout.backend={engine}"
            )


def refuse_text_rules(request: Request, stop: StopRules) -> None:
    """Refuse a request that needs texts from an engine that has no tokenizer.

    Raises:
        ValueError: It names the field.
    """
    if stop.text is None:
        names = ("stop", "max_thinking_tokens", "max_answer_tokens")
        refuse_features(request, "lightning without a tokenizer", *names)
