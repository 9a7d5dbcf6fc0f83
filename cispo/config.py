"""The schema of `conf/`: what may be set, in which range, and which combinations cannot work.

Each class validates itself when it is built, so that a bad run is refused before anything starts. The classes
are not frozen because the configuration library would make such nodes read-only and fail to compose them.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from cispo.errors import ConfigError


class TokenWeighting(StrEnum):
    """How tokens share the loss of one optimizer step; see `cispo.batch.token_weights`."""

    PROMPT = "prompt"
    TOKEN = "token"
    SAMPLE = "sample"
    SAMPLE_TOKEN = "sample_token"


class AdvantageKind(StrEnum):
    """How rewards of a group become advantages; see `cispo.advantages`."""

    GROUP_STD = "group_std"
    GROUP_MEAN = "group_mean"
    BATCH_STD = "batch_std"
    LEAVE_ONE_OUT = "leave_one_out"


class ObjectiveKind(StrEnum):
    """The loss; see `cispo.objectives`."""

    CISPO = "cispo"
    PPO_CLIP = "ppo_clip"
    GSPO = "gspo"
    REINFORCE = "reinforce"


def _require(condition: bool, key: str, value: object, advice: str) -> None:
    if not condition:
        raise ConfigError(f"{key}={value}: {advice}")


@dataclass(slots=True, kw_only=True)
class PolicyConfig:
    """The model pi.

    Attributes:
        backend: `lightning` for this project's hybrid, `transformers` for any other causal language model.
        path: Hugging Face folder or hub id with config.json, safetensors and tokenizer.
        dtype: `float32` or `bfloat16`, of the learner's weights.
        logprob_chunk: Tokens that go through the LM head at once; bounds memory at chunk x vocabulary.
        architecture: For a new lightning model: the fields of its config.json; empty where `path` exists.
        tokenizer: For a new model: folder of the tokenizer, or the name of one that ships with the package.
    """

    backend: str = "lightning"
    path: str | None = None
    dtype: str = "float32"
    logprob_chunk: int = 1024
    architecture: dict[str, Any] = field(default_factory=dict)
    tokenizer: str = "bpe1024"

    def __post_init__(self) -> None:
        _require(
            self.backend in ("lightning", "transformers"),
            "policy.backend",
            self.backend,
            "choose lightning or transformers",
        )
        _require(
            self.dtype in ("float32", "bfloat16"),
            "policy.dtype",
            self.dtype,
            "choose float32 or bfloat16",
        )
        _require(
            self.logprob_chunk >= 1, "policy.logprob_chunk", self.logprob_chunk, "must be >= 1"
        )


@dataclass(slots=True, kw_only=True)
class ObjectiveConfig:
    """The loss and what surrounds it.

    Attributes:
        kind: The loss.
        ratio_max: Upper bound of pi/mu itself (not an offset), >= 1. MiniMax published no value; 5.0 is customary.
        ratio_min: Lower bound of pi/mu itself, 0 <= ratio_min <= 1; the paper's CISPO has none, which is 0.
        allow_ratio_min: Opt in to a positive `ratio_min` with CISPO, which the paper advises against.
        advantage: Estimator of the advantage.
        token_weighting: Which average over tokens; `prompt` is eq. 4.
        dynamic_sampling: Replace groups whose rewards are all equal by further tasks, as in DAPO.
        max_consecutive_drops: Groups dropped in a row before the run stops with `NoSignal`.
    """

    kind: ObjectiveKind = ObjectiveKind.CISPO
    ratio_max: float = 5.0
    ratio_min: float = 0.0
    allow_ratio_min: bool = False
    advantage: AdvantageKind = AdvantageKind.GROUP_STD
    token_weighting: TokenWeighting = TokenWeighting.PROMPT
    dynamic_sampling: bool = True
    max_consecutive_drops: int = 256

    def __post_init__(self) -> None:
        _require(
            self.ratio_max >= 1.0,
            "objective.ratio_max",
            self.ratio_max,
            "it bounds the ratio pi/mu itself, so it must be >= 1 (write 1.28 for an offset of 0.28)",
        )
        _require(
            0.0 <= self.ratio_min <= 1.0,
            "objective.ratio_min",
            self.ratio_min,
            "it bounds the ratio pi/mu itself, so it must lie in 0..1",
        )
        if self.kind is ObjectiveKind.CISPO and self.ratio_min > 0 and not self.allow_ratio_min:
            raise ConfigError(
                f"objective.ratio_min={self.ratio_min}: CISPO has no lower bound (paper, section 3.1) and a "
                "positive one undoes the importance weight; set 0.0, or objective.allow_ratio_min=true"
            )
        _require(
            self.max_consecutive_drops >= 1,
            "objective.max_consecutive_drops",
            self.max_consecutive_drops,
            "must be >= 1",
        )


@dataclass(slots=True, kw_only=True)
class SamplingConfig:
    """The behaviour policy's sampling, in training or evaluation.

    Attributes:
        temperature: Divides the logits, > 0.
        top_p: Smallest set of tokens with this mass is kept, 0 < top_p <= 1.
        top_k: This many likeliest tokens are kept; 0 keeps all.
        min_p: Tokens below this share of the likeliest token's probability are cut, 0 <= min_p < 1.
        max_new_tokens: Budget of sampled tokens a rollout.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    max_new_tokens: int = 256

    def __post_init__(self) -> None:
        _require(self.temperature > 0, "temperature", self.temperature, "must be > 0")
        _require(0 < self.top_p <= 1, "top_p", self.top_p, "must lie in (0, 1]")
        _require(self.top_k >= 0, "top_k", self.top_k, "must be >= 0; 0 keeps all tokens")
        _require(0 <= self.min_p < 1, "min_p", self.min_p, "must lie in [0, 1)")
        _require(self.max_new_tokens >= 1, "max_new_tokens", self.max_new_tokens, "must be >= 1")


@dataclass(slots=True, kw_only=True)
class RolloutConfig:
    """Rollout actors.

    Attributes:
        backend: `lightning`, `transformers`, `vllm`, or `scripted` for tests.
        num_actors: Ray actors, each with a copy of the weights.
        max_sequences: Sequences that one actor decodes at once.
        num_cpus: CPUs that Ray reserves for an actor.
        num_gpus: GPUs that Ray reserves for an actor.
        max_attempts: Actors on which a request is tried before the run stops.
        sampling: The behaviour policy's sampling in training.
        repetition_tokens: Stop after this many consecutive tokens above `repetition_probability`; 0 never stops.
        repetition_probability: See `repetition_tokens`; the paper uses 3,000 tokens above 0.99.
    """

    backend: str = "lightning"
    num_actors: int = 1
    max_sequences: int = 256
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    max_attempts: int = 3
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    repetition_tokens: int = 3000
    repetition_probability: float = 0.99

    def __post_init__(self) -> None:
        _require(
            self.backend in ("lightning", "transformers", "vllm", "scripted"),
            "rollout.backend",
            self.backend,
            "choose lightning, transformers, vllm or scripted",
        )
        _require(self.num_actors >= 1, "rollout.num_actors", self.num_actors, "must be >= 1")
        _require(
            self.max_sequences >= 1, "rollout.max_sequences", self.max_sequences, "must be >= 1"
        )
        _require(self.max_attempts >= 1, "rollout.max_attempts", self.max_attempts, "must be >= 1")


@dataclass(slots=True, kw_only=True)
class RewardConfig:
    """Reward workers and the weights of a reward's parts.

    Attributes:
        num_workers: Ray actors that grade.
        num_cpus: CPUs that Ray reserves for a worker.
        verifiers: Names of the verifiers that may be used; an unknown one is refused.
        weights: Weight of each named part in the reward.
        deadline_seconds: Wall time after which a math verification is killed.
        max_attempts: Workers on which a verdict is tried before it is `Ungraded`.
        overlong_cache_tokens: Length of DAPO's linear over-length penalty before the budget's end.
        max_ungraded_fraction: The run stops when more verdicts of an iteration than this are `Ungraded`.
    """

    num_workers: int = 1
    num_cpus: float = 0.25
    verifiers: list[str] = field(default_factory=lambda: ["math", "logic", "code"])
    weights: dict[str, float] = field(default_factory=lambda: {"correct": 1.0})
    deadline_seconds: float = 10.0
    max_attempts: int = 3
    overlong_cache_tokens: int = 0
    max_ungraded_fraction: float = 0.5

    def __post_init__(self) -> None:
        _require(self.num_workers >= 1, "reward.num_workers", self.num_workers, "must be >= 1")
        _require(
            self.deadline_seconds > 0,
            "reward.deadline_seconds",
            self.deadline_seconds,
            "must be > 0",
        )
        _require(
            self.weights.get("correct", 0.0) != 0.0,
            "reward.weights",
            self.weights,
            "'correct' needs a weight, or nothing rewards a right answer",
        )


@dataclass(slots=True, kw_only=True)
class SandboxConfig:
    """Where untrusted programs run.

    Attributes:
        backend: `bubblewrap`.
        max_concurrent: Programs that one reward worker runs at once.
        cpu_seconds: CPU time of one program.
        wall_seconds: Wall time of one program, a generous backstop.
        memory_bytes: Memory of one program with all its processes.
        max_processes: Processes and threads of one program.
        output_bytes: Standard output and error, each.
    """

    backend: str = "bubblewrap"
    max_concurrent: int = 2
    cpu_seconds: float = 5.0
    wall_seconds: float = 20.0
    memory_bytes: int = 512 * 2**20
    max_processes: int = 32
    output_bytes: int = 2**20

    def __post_init__(self) -> None:
        _require(self.backend == "bubblewrap", "sandbox.backend", self.backend, "choose bubblewrap")
        for key in (
            "max_concurrent",
            "cpu_seconds",
            "wall_seconds",
            "memory_bytes",
            "max_processes",
        ):
            _require(getattr(self, key) > 0, f"sandbox.{key}", getattr(self, key), "must be > 0")


@dataclass(slots=True, kw_only=True)
class OptimizerConfig:
    """AdamW as in the paper, section 3.2.

    Attributes:
        lr: Learning rate after warm-up.
        beta1: Decay of the first moment.
        beta2: Decay of the second moment.
        eps: The paper's gradients are as small as 1e-18, hence 1e-15.
        weight_decay: Decoupled weight decay.
        warmup_steps: Optimizer steps of linear warm-up.
        max_grad_norm: Gradients above this global norm are scaled down.
    """

    lr: float = 1e-6
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-15
    weight_decay: float = 0.0
    warmup_steps: int = 0
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        _require(self.lr > 0, "learner.optimizer.lr", self.lr, "must be > 0")
        _require(
            self.warmup_steps >= 0, "learner.optimizer.warmup_steps", self.warmup_steps, ">= 0"
        )
        _require(
            self.max_grad_norm > 0,
            "learner.optimizer.max_grad_norm",
            self.max_grad_norm,
            "must be > 0",
        )


@dataclass(slots=True, kw_only=True)
class LearnerConfig:
    """The learner's processes.

    Attributes:
        backend: `deepspeed`, or `local` for the reference in one process.
        num_ranks: Data-parallel processes.
        zero_stage: DeepSpeed's ZeRO stage, 0..3; bfloat16 needs >= 1.
        micro_batch_tokens: Tokens, prompts included, of one forward and backward pass of one rank.
        num_cpus: CPUs that Ray reserves for a rank.
        num_gpus: GPUs that Ray reserves for a rank.
        optimizer: AdamW.
        router_aux_loss_coef: Weight of the experts' balance loss; None takes the model's own.
    """

    backend: str = "deepspeed"
    num_ranks: int = 1
    zero_stage: int = 1
    micro_batch_tokens: int = 8192
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    router_aux_loss_coef: float | None = None

    def __post_init__(self) -> None:
        _require(
            self.backend in ("deepspeed", "local"),
            "learner.backend",
            self.backend,
            "choose deepspeed or local",
        )
        _require(self.num_ranks >= 1, "learner.num_ranks", self.num_ranks, "must be >= 1")
        _require(
            0 <= self.zero_stage <= 3, "learner.zero_stage", self.zero_stage, "choose 0, 1, 2 or 3"
        )
        _require(
            self.backend == "deepspeed" or self.num_ranks == 1,
            "learner.num_ranks",
            self.num_ranks,
            "learner.backend=local runs in one process; use deepspeed",
        )
        _require(
            self.micro_batch_tokens >= 1,
            "learner.micro_batch_tokens",
            self.micro_batch_tokens,
            "must be >= 1",
        )


@dataclass(slots=True, kw_only=True)
class SourceConfig:
    """One source of tasks.

    Attributes:
        kind: `reasoning_gym`, `code_family`, `jsonl`, `parquet` or `huggingface`.
        name: The family, file or data set.
        weight: Share in the mixture, > 0.
        size: Tasks that a generated family has before it repeats.
        seed: Seed of a generated family; training and evaluation must differ.
        verifier: Verifier of file tasks.
        split: Split of a hub data set.
        problem_field: Column with the problem.
        answer_field: Column with the answer.
        instruction: Text after each problem, which says in what form to answer.
        options: Arguments of the generator.
    """

    kind: str
    name: str
    weight: float = 1.0
    size: int = 10_000
    seed: int = 0
    verifier: str = "math"
    split: str = "train"
    problem_field: str = "problem"
    answer_field: str = "answer"
    instruction: str = ""
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require(
            self.kind in ("reasoning_gym", "code_family", "jsonl", "parquet", "huggingface"),
            "tasks.sources.kind",
            self.kind,
            "choose reasoning_gym, code_family, jsonl, parquet or huggingface",
        )
        _require(self.weight > 0, f"tasks.sources[{self.name}].weight", self.weight, "must be > 0")
        _require(self.size >= 1, f"tasks.sources[{self.name}].size", self.size, "must be >= 1")


@dataclass(slots=True, kw_only=True)
class TasksConfig:
    """Tasks for training.

    Attributes:
        sources: The mixture.
        max_prompt_tokens: Tasks with a longer prompt are refused.
        system_prompt: First message of every task, where not empty.
    """

    sources: list[SourceConfig] = field(default_factory=list)
    max_prompt_tokens: int = 2048
    system_prompt: str = ""

    def __post_init__(self) -> None:
        _require(
            bool(self.sources), "tasks.sources", self.sources, "name at least one source of tasks"
        )


@dataclass(slots=True, kw_only=True)
class EvaluationConfig:
    """Held-out evaluation before, during and after the run.

    Attributes:
        every: Iterations between evaluations; 0 evaluates only before and after the run, -1 never.
        num_tasks: Held-out tasks.
        num_rollouts: k of avg@k and pass@k.
        sources: The held-out mixture; empty takes the training sources with other seeds.
        sampling: Sampling in evaluation.
    """

    every: int = 10
    num_tasks: int = 64
    num_rollouts: int = 4
    sources: list[SourceConfig] = field(default_factory=list)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)

    def __post_init__(self) -> None:
        _require(self.every >= -1, "evaluation.every", self.every, "must be >= -1")
        _require(self.num_tasks >= 1, "evaluation.num_tasks", self.num_tasks, "must be >= 1")
        _require(
            self.num_rollouts >= 1, "evaluation.num_rollouts", self.num_rollouts, "must be >= 1"
        )


@dataclass(slots=True, kw_only=True)
class TrackingConfig:
    """Where metrics go.

    Attributes:
        wandb_mode: `offline`, `online` or `disabled`.
        project: W&B project.
        rollouts_every: Iterations between dumps of rollouts to `rollouts/`; 0 never.
    """

    wandb_mode: str = "offline"
    project: str = "cispo"
    rollouts_every: int = 1

    def __post_init__(self) -> None:
        _require(
            self.wandb_mode in ("offline", "online", "disabled"),
            "tracking.wandb_mode",
            self.wandb_mode,
            "choose offline, online or disabled",
        )


@dataclass(slots=True, kw_only=True)
class ClusterConfig:
    """Ray.

    Attributes:
        address: Address of a running cluster; None starts one on this machine.
        num_cpus: CPUs that a new local cluster claims; None takes all.
        object_store_bytes: Object store of a new local cluster.
        startup_seconds: Wall time to wait for actors before the run stops and names those missing.
    """

    address: str | None = None
    num_cpus: int | None = None
    object_store_bytes: int = 512 * 2**20
    startup_seconds: float = 180.0


@dataclass(slots=True, kw_only=True)
class RunConfig:
    """A whole run: `python -m launch.train`.

    Attributes:
        name: Name of the run.
        run_dir: Folder of the run.
        seed: The one seed that everything random derives from.
        iterations: Rollout batches to learn from, each followed by a publish.
        tasks_per_iteration: Groups of an iteration.
        group_size: G, rollouts of a task.
        updates_per_iteration: Optimizer steps of an iteration; divides `tasks_per_iteration`.
        max_staleness: Versions that a rollout may lag behind; 0 is synchronous.
        checkpoint_every: Iterations between checkpoints; 0 writes only the last.
        keep_checkpoints: Newest checkpoints that are kept.
        resume: Run folder or checkpoint to continue from.
    """

    name: str = "run"
    run_dir: str = "runs/run"
    seed: int = 0
    iterations: int = 100
    tasks_per_iteration: int = 32
    group_size: int = 8
    updates_per_iteration: int = 1
    max_staleness: int = 0
    checkpoint_every: int = 10
    keep_checkpoints: int = 2
    resume: str | None = None
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    tasks: TasksConfig
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    def __post_init__(self) -> None:
        for key in ("iterations", "tasks_per_iteration", "group_size", "updates_per_iteration"):
            _require(getattr(self, key) >= 1, key, getattr(self, key), "must be >= 1")
        for key in ("max_staleness", "checkpoint_every", "seed"):
            _require(getattr(self, key) >= 0, key, getattr(self, key), "must be >= 0")
        _require(
            self.group_size >= 2,
            "group_size",
            self.group_size,
            f"objective.advantage={self.objective.advantage} compares rollouts of one task; use >= 2",
        )
        _require(
            self.tasks_per_iteration % self.updates_per_iteration == 0,
            "updates_per_iteration",
            self.updates_per_iteration,
            f"must divide tasks_per_iteration={self.tasks_per_iteration}, "
            f"for example {_largest_divisor(self.tasks_per_iteration, self.updates_per_iteration)}",
        )
        _require(
            not (self.policy.dtype == "bfloat16" and self.learner.backend == "deepspeed")
            or self.learner.zero_stage >= 1,
            "learner.zero_stage",
            self.learner.zero_stage,
            "DeepSpeed trains bfloat16 wrongly at stage 0; use 1, 2 or 3",
        )
        _require(
            not (self.policy.backend == "transformers" and self.rollout.backend == "lightning"),
            "rollout.backend",
            self.rollout.backend,
            "the lightning engine runs lightning models only; use rollout.backend=transformers",
        )


def _largest_divisor(number: int, at_most: int) -> int:
    return max(d for d in range(1, min(number, at_most) + 1) if number % d == 0)


@dataclass(slots=True, kw_only=True)
class SftConfig:
    """Supervised cold start on worked solutions: `python -m launch.sft`.

    Attributes:
        name: Name of the run.
        run_dir: Folder of the run; the model is saved in its `policy` folder.
        seed: Seed of initial weights and data order.
        steps: Optimizer steps.
        batch_tasks: Worked solutions a step.
        policy: A new model's architecture, or the path of one to start from.
        tasks: Tasks with worked solutions.
        optimizer: AdamW.
        tracking: Where metrics go.
    """

    name: str = "sft"
    run_dir: str = "runs/sft"
    seed: int = 0
    steps: int = 300
    batch_tasks: int = 64
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    tasks: TasksConfig
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(lr=3e-3))
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def __post_init__(self) -> None:
        _require(self.steps >= 1, "steps", self.steps, "must be >= 1")
        _require(self.batch_tasks >= 1, "batch_tasks", self.batch_tasks, "must be >= 1")
