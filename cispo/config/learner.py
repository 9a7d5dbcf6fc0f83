"""Configuration of the optimizer and the learner."""

from dataclasses import dataclass, field

from cispo.config.require import require


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
        require(self.lr > 0, "learner.optimizer.lr", self.lr, "must be > 0")
        require(self.warmup_steps >= 0, "learner.optimizer.warmup_steps", self.warmup_steps, ">= 0")
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
        require(
            self.backend in ("deepspeed", "local"),
            "learner.backend",
            self.backend,
            "choose deepspeed or local",
        )
        require(self.num_ranks >= 1, "learner.num_ranks", self.num_ranks, "must be >= 1")
        require(
            0 <= self.zero_stage <= 3, "learner.zero_stage", self.zero_stage, "choose 0, 1, 2 or 3"
        )
        require(
            self.backend == "deepspeed" or self.num_ranks == 1,
            "learner.num_ranks",
            self.num_ranks,
            "learner.backend=local runs in one process; use deepspeed",
        )
        require(
            self.micro_batch_tokens >= 1,
            "learner.micro_batch_tokens",
            self.micro_batch_tokens,
            "must be >= 1",
        )
