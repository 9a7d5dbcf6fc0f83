"""Configuration of whole runs, with the combinations that cannot work."""

from dataclasses import dataclass, field

from cispo.config.actors import RewardConfig, RolloutConfig
from cispo.config.cluster import ClusterConfig
from cispo.config.learner import Decay, LearnerConfig, OptimizerConfig
from cispo.config.length_window import LengthWindowConfig
from cispo.config.objective import AnchorKind, ObjectiveConfig
from cispo.config.policy import PolicyConfig
from cispo.config.require import require
from cispo.config.sandbox import SandboxConfig
from cispo.config.tasks import EvaluationConfig, TasksConfig
from cispo.config.watchdog import WatchdogConfig
from cispo.config.weights import WeightsConfig


@dataclass(slots=True, kw_only=True)
class TrackingConfig:
    """Where metrics go.

    Attributes:
        wandb_mode: `offline`, `online` or `disabled`.
        project: W&B project.
        rollouts_every: Iterations between dumps of rollouts to `rollouts/`, those of evaluations
            included; 0 never.
        recorded_tokens: Tokens of each dump that are kept one by one, with their log-probability,
            for the watch page; the first rollouts have them. About 15 bytes each on disk.
        scored_tokens: Tokens of an iteration, prompts included, that the learner scores again after
            its updates, so that the watch page can show how far they moved each token's ratio; 0
            shows none. They cost a forward pass.
    """

    wandb_mode: str = "offline"
    project: str = "cispo"
    rollouts_every: int = 1
    recorded_tokens: int = 65536
    scored_tokens: int = 2048

    def __post_init__(self) -> None:
        require(
            self.wandb_mode in ("offline", "online", "disabled"),
            "tracking.wandb_mode",
            self.wandb_mode,
            "choose offline, online or disabled",
        )
        for key in ("rollouts_every", "recorded_tokens", "scored_tokens"):
            value = getattr(self, key)
            require(value >= 0, f"tracking.{key}", value, "must be >= 0")


@dataclass(slots=True, kw_only=True)
class RunConfig:
    """A whole run: `python -m launch.train`.

    Attributes:
        name: Name of the run.
        run_dir: Folder of the run.
        overwrite: Replace what an earlier run left in `run_dir`; otherwise it is refused.
        seed: The one seed that everything random derives from.
        iterations: Rollout batches to learn from, each followed by a publish.
        tasks_per_iteration: Groups of an iteration.
        group_size: G, rollouts of a task.
        updates_per_iteration: Optimizer steps of an iteration; divides `tasks_per_iteration`.
        max_staleness: Versions that a rollout may lag behind; 0 is synchronous.
        checkpoint_every: Iterations between checkpoints; 0 writes only the last.
        keep_checkpoints: Newest checkpoints that are kept.
        resume: Run folder or checkpoint to continue from; `auto` continues in `run_dir` where that
            has a checkpoint, and starts afresh where it has none.
        max_restarts: Times in a row that the learner starts again from the last checkpoint after
            ranks were lost, without a new checkpoint in between; 0 ends the run at once.
    """

    name: str = "run"
    run_dir: str = "runs/run"
    overwrite: bool = False
    seed: int = 0
    iterations: int = 100
    tasks_per_iteration: int = 32
    group_size: int = 8
    updates_per_iteration: int = 1
    max_staleness: int = 0
    checkpoint_every: int = 10
    keep_checkpoints: int = 2
    resume: str | None = None
    max_restarts: int = 3
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    length_window: LengthWindowConfig = field(default_factory=LengthWindowConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    weights: WeightsConfig = field(default_factory=WeightsConfig)
    tasks: TasksConfig
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    watchdog: WatchdogConfig = field(default_factory=WatchdogConfig)

    def __post_init__(self) -> None:
        for key in ("iterations", "tasks_per_iteration", "group_size", "updates_per_iteration"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "must be >= 1")
        for key in ("max_staleness", "checkpoint_every", "seed", "max_restarts"):
            require(getattr(self, key) >= 0, key, getattr(self, key), "must be >= 0")
        require(
            self.group_size >= 2,
            "group_size",
            self.group_size,
            f"objective.advantage={self.objective.advantage} compares rollouts of a task; use >= 2",
        )
        require(
            self.tasks_per_iteration % self.updates_per_iteration == 0,
            "updates_per_iteration",
            self.updates_per_iteration,
            f"must divide tasks_per_iteration={self.tasks_per_iteration}, "
            f"for example {_largest_divisor(self.tasks_per_iteration, self.updates_per_iteration)}",
        )
        is_proximal = self.objective.anchor == AnchorKind.PROXIMAL
        require(
            not (is_proximal and self.updates_per_iteration == 1),
            "objective.anchor",
            self.objective.anchor,
            "with updates_per_iteration=1 the ratio pi/pi_proximal is always 1 and no clip ever "
            "acts; use objective.anchor=behaviour, or several updates",
        )
        require(
            not (is_proximal and self.max_staleness > 0 and self.objective.correction_max is None),
            "objective.correction_max",
            self.objective.correction_max,
            f"with objective.anchor=proximal nothing else corrects for max_staleness="
            f"{self.max_staleness}; set it to 2.0, or objective.anchor=behaviour",
        )
        require(
            not (self.policy.dtype == "bfloat16" and self.learner.backend == "deepspeed")
            or self.learner.zero_stage >= 1,
            "learner.zero_stage",
            self.learner.zero_stage,
            "DeepSpeed trains bfloat16 wrongly at stage 0; use 1, 2 or 3",
        )
        require(
            self.policy.backend == "lightning" or self.learner.sequence_parallel == 1,
            "learner.sequence_parallel",
            self.learner.sequence_parallel,
            f"policy.backend={self.policy.backend} cannot share a row among ranks; set it to 1",
        )
        self._check_engine()
        self.length_window.check_budgets(
            max_new_tokens=self.rollout.sampling.max_new_tokens,
            max_thinking_tokens=self.rollout.sampling.max_thinking_tokens,
            overlong_cache_tokens=self.reward.overlong_cache_tokens,
        )

    def _check_engine(self) -> None:
        """Refuse an engine that cannot run this policy, or cannot sample as it is asked."""
        require(
            not (self.policy.backend == "transformers" and self.rollout.backend == "lightning"),
            "rollout.backend",
            self.rollout.backend,
            "the lightning engine runs lightning models only; use rollout.backend=transformers",
        )
        require(
            not (self.policy.backend == "lightning" and self.rollout.backend == "vllm"),
            "rollout.backend",
            self.rollout.backend,
            "vLLM takes weights by transformers' names, and dropped lightning attention after "
            "0.23.0; use rollout=lightning. A MiniMax model of transformers runs with "
            "policy=transformers and vllm<=0.23.0",
        )
        for key, sampling in (
            ("rollout", self.rollout.sampling),
            ("evaluation", self.evaluation.sampling),
        ):
            require(
                self.rollout.backend in ("lightning", "transformers")
                or sampling.max_thinking_tokens == 0,
                f"{key}.sampling.max_thinking_tokens",
                sampling.max_thinking_tokens,
                f"rollout.backend={self.rollout.backend} cannot end thoughts; set it to 0",
            )


@dataclass(slots=True, kw_only=True)
class SftConfig:
    """Supervised cold start on worked solutions: `python -m launch.sft`.

    Attributes:
        name: Name of the run.
        run_dir: Folder of the run; the model is saved in its `policy` folder.
        overwrite: Replace what an earlier run left in `run_dir`; otherwise it is refused.
        seed: Seed of initial weights and data order.
        steps: Optimizer steps.
        batch_tasks: Worked solutions a step.
        micro_batch_tokens: Tokens of one forward and backward pass.
        worked_fraction: Share of the demonstrations that work a task out; the others guess at once,
            so that thinking is rare at first and reinforcement can show what it is worth.
        worked_steps: Steps at the beginning in which all demonstrations work the task out.
        policy: A new model's architecture, or the path of one to start from.
        tasks: Tasks with worked solutions.
        optimizer: AdamW.
        tracking: Where metrics go.
    """

    name: str = "sft"
    run_dir: str = "runs/sft"
    overwrite: bool = False
    seed: int = 0
    steps: int = 300
    batch_tasks: int = 64
    micro_batch_tokens: int = 8192
    worked_fraction: float = 1.0
    worked_steps: int = 0
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    tasks: TasksConfig
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(lr=3e-3))
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def __post_init__(self) -> None:
        require(self.steps >= 1, "steps", self.steps, "must be >= 1")
        require(self.batch_tasks >= 1, "batch_tasks", self.batch_tasks, "must be >= 1")
        require(
            self.optimizer.decay == Decay.CONSTANT,
            "optimizer.decay",
            self.optimizer.decay,
            "the cold start's rate always falls linearly to a tenth; leave it constant",
        )
        require(
            0 <= self.worked_fraction <= 1,
            "worked_fraction",
            self.worked_fraction,
            "must lie in 0..1",
        )


def _largest_divisor(number: int, at_most: int) -> int:
    return max(d for d in range(1, min(number, at_most) + 1) if number % d == 0)
