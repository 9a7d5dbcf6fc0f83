"""Configuration of a finished policy's evaluation."""

from dataclasses import dataclass, field

from cispo.config.actors import RewardConfig, RolloutConfig
from cispo.config.cluster import ClusterConfig
from cispo.config.policy import PolicyConfig, SamplingConfig
from cispo.config.require import require
from cispo.config.sandbox import SandboxConfig
from cispo.config.tasks import SourceConfig

ENGINES = ("local", "ray", "endpoint", "answers", "perfect", "wrong")
METRICS = ("correct", "score")


@dataclass(slots=True, kw_only=True)
class EvaluationSetConfig:
    """One set of problems.

    Attributes:
        source: Where the problems come from.
        num_tasks: How many of them, null for all: of a file a sample that the seed chooses, of a
            generated family the first.
        num_rollouts: n, answers to each.
        max_new_tokens: Budget of tokens of an answer.
        metric: Part of a verdict that avg@k averages: `correct`, or `score` where a set is scored
            by a share. pass@k and maj@k always ask whether an answer is right.
    """

    source: SourceConfig
    num_tasks: int | None = None
    num_rollouts: int = 1
    max_new_tokens: int = 4096
    metric: str = "correct"

    def __post_init__(self) -> None:
        name = f"sets[{self.source.name}]"
        require(
            self.num_tasks is None or self.num_tasks >= 1,
            f"{name}.num_tasks",
            self.num_tasks,
            "must be >= 1, or null for all",
        )
        for key in ("num_rollouts", "max_new_tokens"):
            require(getattr(self, key) >= 1, f"{name}.{key}", getattr(self, key), "must be >= 1")
        require(
            self.metric in METRICS,
            f"{name}.metric",
            self.metric,
            f"choose one of {', '.join(METRICS)}",
        )


@dataclass(slots=True, kw_only=True)
class EndpointConfig:
    """A model behind an OpenAI-compatible server.

    Attributes:
        url: Base address, for example `http://host:8000/v1`.
        model: Name that the server knows.
        api_key_variable: Environment variable with the key; empty sends none.
        max_concurrent: Requests at once.
        max_attempts: Requests for one answer.
        deadline_seconds: Wall time of one request.
    """

    url: str | None = None
    model: str = "policy"
    api_key_variable: str = ""
    max_concurrent: int = 16
    max_attempts: int = 5
    deadline_seconds: float = 3600.0

    def __post_init__(self) -> None:
        for key in ("max_concurrent", "max_attempts", "deadline_seconds"):
            require(getattr(self, key) > 0, f"endpoint.{key}", getattr(self, key), "must be > 0")


@dataclass(slots=True, kw_only=True)
class EvaluateConfig:
    """What a policy can do: `python -m launch.evaluate`.

    Attributes:
        name: For tables and plots; null takes the last part of what is evaluated.
        output: Folder of the answers and results; a second call goes on where the first stopped.
        overwrite: Drop what the folder holds.
        compare: Two results.json, or their folders: compare them instead of evaluating anything.
        seed: Chooses problems, and seeds sampling and resampling.
        data: Folder of the files of problems.
        engine: `local` (one engine in this process), `ray` (rollout.num_actors of them),
            `endpoint`, `answers` (from a file), or a scripted policy that is always `perfect` or
            always `wrong`. Null is `endpoint` or `answers` where those are given, else `local`.
        answers: JSONL of answers that others made: task_id and response, or instance_id and
            model_patch; several lines of a task are its rollouts.
        max_concurrent: Problems under way at once.
        sets: The sets by name.
        sampling: Sampling of all sets, but for `max_new_tokens`.
        policy: The model.
        rollout: The engine.
        endpoint: The server.
        reward: Deadlines of graders; its `verifiers` are those that the sets need.
        sandbox: Where programs run.
        cluster: Ray.
    """

    name: str | None = None
    output: str = "runs/evaluation"
    overwrite: bool = False
    compare: list[str] = field(default_factory=list)
    seed: int = 0
    data: str = "data"
    engine: str | None = None
    answers: str | None = None
    max_concurrent: int = 64
    sets: dict[str, EvaluationSetConfig] = field(default_factory=dict)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    endpoint: EndpointConfig = field(default_factory=EndpointConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    def __post_init__(self) -> None:
        require(self.max_concurrent >= 1, "max_concurrent", self.max_concurrent, "must be >= 1")
        require(len(self.compare) in (0, 2), "compare", self.compare, "name two results to compare")
        require(
            bool(self.sets) or bool(self.compare),
            "sets",
            list(self.sets),
            "choose what to evaluate on: evaluation_set=[gsm8k,aime24], see --help",
        )
        if self.engine is None:
            given = [name for name in ("endpoint", "answers") if self._is_given(name)]
            require(len(given) < 2, "answers", self.answers, "drop it, or endpoint.url")
            self.engine = given[0] if given else "local"
        require(
            self.engine in ENGINES, "engine", self.engine, f"choose one of {', '.join(ENGINES)}"
        )
        for name, key in (("endpoint", "endpoint.url"), ("answers", "answers")):
            require(
                (self.engine == name) == self._is_given(name),
                "engine",
                self.engine,
                f"engine={name} and {key} go together",
            )

    def _is_given(self, engine: str) -> bool:
        return (self.endpoint.url if engine == "endpoint" else self.answers) is not None
