"""Configuration of the optimizer and the learner."""

from dataclasses import dataclass, field
from enum import StrEnum

from cispo.config.require import require, require_member


class Offload(StrEnum):
    """What of the learner rests in the CPU's memory instead of the GPU's."""

    NONE = "none"
    OPTIMIZER = "optimizer"
    OPTIMIZER_AND_WEIGHTS = "optimizer_and_weights"


class Decay(StrEnum):
    """How the learning rate falls after its warm-up."""

    CONSTANT = "constant"
    LINEAR = "linear"
    COSINE = "cosine"


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
        decay: How the rate falls after that: `constant` (not at all), `linear` or `cosine`.
        decay_steps: Optimizer steps in which it falls; `updates_per_iteration` go to an iteration.
        final_lr_fraction: Of `lr`, what is left in the end, 0..1.
        max_grad_norm: Gradients above this global norm are scaled down.
    """

    lr: float = 1e-6
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-15
    weight_decay: float = 0.0
    warmup_steps: int = 0
    decay: str = Decay.CONSTANT
    decay_steps: int = 0
    final_lr_fraction: float = 0.0
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        require(self.lr > 0, "learner.optimizer.lr", self.lr, "must be > 0")
        require(self.warmup_steps >= 0, "learner.optimizer.warmup_steps", self.warmup_steps, ">= 0")
        require_member(Decay, "learner.optimizer.decay", self.decay)
        require(
            (self.decay == Decay.CONSTANT) == (self.decay_steps == 0) and self.decay_steps >= 0,
            "learner.optimizer.decay_steps",
            self.decay_steps,
            f"learner.optimizer.decay={self.decay} needs "
            + (
                "0, for it never falls" if self.decay == Decay.CONSTANT else "the steps of its fall"
            ),
        )
        require(
            0.0 <= self.final_lr_fraction <= 1.0,
            "learner.optimizer.final_lr_fraction",
            self.final_lr_fraction,
            "must lie in 0..1",
        )
        require(
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
        num_ranks: Processes.
        sequence_parallel: Ranks that share each row of tokens, for contexts that do not fit one;
            divides `num_ranks`. 1 gives every rank rows of its own. Lightning models only.
        zero_stage: DeepSpeed's ZeRO stage, 0..3; bfloat16 needs >= 1.
        offload: What rests in the CPU's memory, where AdamW then steps: `none`, `optimizer` (ZeRO
            stages 1 to 3), `optimizer_and_weights` (stage 3).
        micro_batch_tokens: Tokens, prompts included, of one forward and backward pass of one rank,
            or of the ranks that share a row.
        step_seconds: Wall time that the ranks have for one optimizer step, save, restore or export
            of weights; then those that have not answered hang, and the learner starts again. 0
            waits for ever.
        num_cpus: CPUs that Ray reserves for a rank.
        num_gpus: GPUs that Ray reserves for a rank.
        optimizer: AdamW.
        router_aux_loss_coef: Weight of the experts' balance loss; None takes the model's own.
    """

    backend: str = "deepspeed"
    num_ranks: int = 1
    sequence_parallel: int = 1
    zero_stage: int = 1
    offload: str = Offload.NONE
    micro_batch_tokens: int = 8192
    step_seconds: float = 3600.0
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    router_aux_loss_coef: float | None = None

    def __post_init__(self) -> None:
        require(
            self.backend in ("deepspeed", "local"),
            "learner.backend",
            self.backend,
            "choose deepspeed or local",
        )
        require(self.num_ranks >= 1, "learner.num_ranks", self.num_ranks, "must be >= 1")
        require(
            self.step_seconds >= 0,
            "learner.step_seconds",
            self.step_seconds,
            "must be >= 0; 0 waits for ever",
        )
        require(
            0 <= self.zero_stage <= 3, "learner.zero_stage", self.zero_stage, "choose 0, 1, 2 or 3"
        )
        require_member(Offload, "learner.offload", self.offload)
        least = {Offload.NONE: 0, Offload.OPTIMIZER: 1, Offload.OPTIMIZER_AND_WEIGHTS: 3}
        require(
            self.zero_stage >= least[Offload(self.offload)],
            "learner.offload",
            self.offload,
            f"needs learner.zero_stage >= {least[Offload(self.offload)]}, not {self.zero_stage}",
        )
        require(
            self.backend == "deepspeed" or self.offload == Offload.NONE,
            "learner.offload",
            self.offload,
            f"learner.backend={self.backend} cannot; use none",
        )
        require(
            self.backend == "deepspeed" or self.num_ranks == 1,
            "learner.num_ranks",
            self.num_ranks,
            "learner.backend=local runs in one process; use deepspeed",
        )
        require(
            self.sequence_parallel >= 1 and self.num_ranks % self.sequence_parallel == 0,
            "learner.sequence_parallel",
            self.sequence_parallel,
            f"must divide learner.num_ranks={self.num_ranks}",
        )
        require(
            self.micro_batch_tokens >= 1,
            "learner.micro_batch_tokens",
            self.micro_batch_tokens,
            "must be >= 1",
        )
