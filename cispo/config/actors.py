"""Configuration of rollout actors and reward workers."""

from dataclasses import dataclass, field

from cispo.config.agent import AgentConfig
from cispo.config.judge import JudgeConfig
from cispo.config.policy import SamplingConfig
from cispo.config.require import require


@dataclass(slots=True, kw_only=True)
class RolloutConfig:
    """Rollout actors.

    Attributes:
        backend: `lightning`, `transformers`, `vllm`, or `scripted` for tests.
        num_actors: Ray actors, each with a copy of the weights.
        max_sequences: Sequences that one actor decodes at once.
        num_cpus: CPUs that Ray reserves for an actor.
        num_gpus: GPUs that Ray reserves for an actor.
        max_attempts: Actors on which a request is tried before the run stops; also starts of an
            actor, and losses in a row of actors that delivered nothing, before one is given up.
        stall_seconds: Wall time without a step of the engine after which an actor with work to do
            hangs and is replaced; more than any one step takes, however long rollouts are. 0 waits
            for ever.
        sampling: The behaviour policy's sampling in training.
        repetition_tokens: Stop after this many consecutive tokens above `repetition_probability`; 0
            never stops.
        repetition_probability: See `repetition_tokens`; the paper uses 3,000 tokens above 0.99.
        prefix_cache_bytes: Memory in which an actor keeps what prompts leave behind, until the next
            weights, for prompts that begin alike; 0 keeps nothing. Only the lightning engine.
        weights_in_flight: `keep_state`: sequences that run while weights change go on from what the
            old weights made of them. `recompute_state`: the new weights read them again first.
        logprobs: `sampled`: behaviour log-probabilities as the engine drew with them. `replay`: as
            the learner's form of the model computes them, bit by bit in float32 on CPUs, for one
            more forward pass a rollout.
        routing_replay: Whether the learner sends each sampled token to the experts that the engine
            chose for it. Null does so where there are experts and the engine tells its choices:
            of two that are nearly even the last bits choose, which the learner does not share.
        agent: Budgets of episodes with tools.
    """

    backend: str = "lightning"
    num_actors: int = 1
    max_sequences: int = 256
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    max_attempts: int = 3
    stall_seconds: float = 300.0
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    repetition_tokens: int = 3000
    repetition_probability: float = 0.99
    prefix_cache_bytes: int = 128 * 2**20
    weights_in_flight: str = "keep_state"
    logprobs: str = "sampled"
    routing_replay: bool | None = None
    agent: AgentConfig = field(default_factory=AgentConfig)

    def __post_init__(self) -> None:
        require(
            self.backend in ("lightning", "transformers", "vllm", "scripted"),
            "rollout.backend",
            self.backend,
            "choose lightning, transformers, vllm or scripted",
        )
        require(self.num_actors >= 1, "rollout.num_actors", self.num_actors, "must be >= 1")
        require(
            self.max_sequences >= 1, "rollout.max_sequences", self.max_sequences, "must be >= 1"
        )
        require(self.max_attempts >= 1, "rollout.max_attempts", self.max_attempts, "must be >= 1")
        require(
            self.stall_seconds >= 0,
            "rollout.stall_seconds",
            self.stall_seconds,
            "must be >= 0; 0 waits for ever",
        )
        require(
            self.prefix_cache_bytes >= 0,
            "rollout.prefix_cache_bytes",
            self.prefix_cache_bytes,
            "must be >= 0; 0 keeps nothing",
        )
        for key, usual, other in (
            ("weights_in_flight", "keep_state", "recompute_state"),
            ("logprobs", "sampled", "replay"),
        ):
            value = getattr(self, key)
            require(value in (usual, other), f"rollout.{key}", value, f"choose {usual} or {other}")
            require(
                value == usual or self.backend == "lightning",
                f"rollout.{key}",
                value,
                f"only rollout.backend=lightning can; choose {usual}",
            )
        for key in ("stop", "max_thinking_tokens", "max_answer_tokens"):
            value = getattr(self.sampling, key)
            require(
                self.backend != "vllm" or not value,
                f"rollout.sampling.{key}",
                value,
                "rollout.backend=vllm cannot; drop it, or choose rollout=transformers",
            )
        require(
            not self.routing_replay or self.backend == "lightning",
            "rollout.routing_replay",
            self.routing_replay,
            f"rollout.backend={self.backend} does not tell its choices; set it to null or false",
        )
        require(
            not self.routing_replay or self.logprobs == "sampled",
            "rollout.routing_replay",
            self.routing_replay,
            "rollout.logprobs=replay scores with the learner's choices already; drop one of them",
        )


@dataclass(slots=True, kw_only=True)
class RewardConfig:
    """Reward workers and the weights of a reward's parts.

    Attributes:
        num_workers: Ray actors that grade.
        num_cpus: CPUs that Ray reserves for a worker.
        verifiers: Names of the verifiers that may be used, `FILE.py:FUNCTION` for one of your own;
            an unknown one is refused.
        weights: Weight of each named part in the reward.
        deadline_seconds: Wall time after which a math verification is killed.
        max_attempts: Workers on which a verdict is tried before it is `Ungraded`.
        overlong_cache_tokens: Length of DAPO's linear over-length penalty before the budget's end.
        max_ungraded_fraction: The run stops when more verdicts of an iteration than this are
            `Ungraded`.
        judge: The model behind the verifier `judge`.
    """

    num_workers: int = 1
    num_cpus: float = 0.25
    verifiers: list[str] = field(default_factory=lambda: ["math", "logic", "code", "swe"])
    weights: dict[str, float] = field(default_factory=lambda: {"correct": 1.0})
    deadline_seconds: float = 10.0
    max_attempts: int = 3
    overlong_cache_tokens: int = 0
    max_ungraded_fraction: float = 0.5
    judge: JudgeConfig = field(default_factory=JudgeConfig)

    def __post_init__(self) -> None:
        require(self.num_workers >= 1, "reward.num_workers", self.num_workers, "must be >= 1")
        require(
            self.deadline_seconds > 0,
            "reward.deadline_seconds",
            self.deadline_seconds,
            "must be > 0",
        )
        require(
            self.weights.get("correct", 0.0) != 0.0,
            "reward.weights",
            self.weights,
            "'correct' needs a weight, or nothing rewards a right answer",
        )
        require(
            "judge" not in self.verifiers or self.judge.url is not None,
            "reward.judge.url",
            self.judge.url,
            "the verifier 'judge' needs the address of a model",
        )
