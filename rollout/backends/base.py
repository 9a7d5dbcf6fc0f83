"""What a rollout actor asks of the engine inside it (loads no torch)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from cispo.types import PolicyVersion, StopReason

if TYPE_CHECKING:
    from cispo.config import SamplingConfig
    from cispo.weights.buckets import WeightBucket


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How a request is sampled; fields as in `cispo.config.SamplingConfig`."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    max_new_tokens: int

    @classmethod
    def of(cls, config: SamplingConfig) -> SamplingParams:
        """Freeze a configuration."""
        return cls(
            temperature=config.temperature,
            top_p=config.top_p,
            top_k=config.top_k,
            min_p=config.min_p,
            max_new_tokens=config.max_new_tokens,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StopRules:
    """When a sequence ends before its budget; the same for all requests of an engine.

    Attributes:
        token_ids: A token among these ends its sequence and belongs to it.
        repetition_tokens: So many tokens in a row above the probability end it; 0 never does.
        repetition_probability: See `repetition_tokens`.
    """

    token_ids: frozenset[int]
    repetition_tokens: int = 0
    repetition_probability: float = 0.99


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A group of rollouts of one prompt.

    Attributes:
        request_id: Unique among the requests of an engine.
        task_id: For messages.
        prompt: Token ids, at least one.
        seeds: One a member of the group; it fixes that member's tokens for given weights.
        sampling: The same for all members.
    """

    request_id: int
    task_id: str
    prompt: tuple[int, ...]
    seeds: tuple[int, ...]
    sampling: SamplingParams

    def __post_init__(self) -> None:
        if not self.prompt:
            raise ValueError(f"the prompt of task {self.task_id} is empty")
        if not self.seeds:
            raise ValueError(f"a request for task {self.task_id} asks for no rollout")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """One member of a request, sampled to its end.

    Attributes:
        request_id: Its request.
        member: Its position in the group.
        token_ids: The sampled tokens, a stop token included.
        logprobs: One a token, in nats, of the distribution that was sampled from.
        stop_reason: Why it ended.
        oldest_version: Weights that sampled its first token.
        newest_version: Weights that sampled its last token.
    """

    request_id: int
    member: int
    token_ids: Sequence[int]
    logprobs: Sequence[float]
    stop_reason: StopReason
    oldest_version: PolicyVersion
    newest_version: PolicyVersion


@dataclass(slots=True, kw_only=True)
class EngineStatistics:
    """What an engine has done since it started.

    Attributes:
        sampled_tokens: Tokens drawn.
        prefill_tokens: Prompt tokens computed, a shared prompt once.
        decode_steps: Steps in which at least one sequence advanced.
        busy_seconds: Wall time inside `Backend.step`.
    """

    sampled_tokens: int = 0
    prefill_tokens: int = 0
    decode_steps: int = 0
    busy_seconds: float = 0.0


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

    def step(self) -> list[Finished]:
        """Advance every running sequence by one token, and admit waiting ones.

        Raises:
            DivergedError: Logits are not finite; the message names the task.
        """

    def load_weights(self, version: PolicyVersion, buckets: Sequence[WeightBucket]) -> str:
        """Replace the weights; running sequences go on with the new ones.

        Returns:
            `export_checksum` of what arrived.

        Raises:
            WeightSyncError: The buckets are not the whole model, or changed on the way.
        """
