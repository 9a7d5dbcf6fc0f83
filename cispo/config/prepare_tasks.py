"""Configuration of the screening of tasks, and of the measurement of how hard they are."""

from dataclasses import dataclass, field

from cispo.config import (
    ClusterConfig,
    PolicyConfig,
    RewardConfig,
    RolloutConfig,
    SamplingConfig,
    SandboxConfig,
    TasksConfig,
)
from cispo.config.evaluate import EndpointConfig, EvaluationSetConfig
from cispo.config.require import require

FORMS = ("multiple_choice", "proof", "multi_part", "yes_no")


@dataclass(slots=True, kw_only=True)
class DuplicatesConfig:
    """When a problem repeats another one.

    Attributes:
        similarity: Smallest Jaccard similarity of two sets of runs of words, in (0, 1]; problems as
            similar as this and with the same answer are one.
        run_words: Words of a run.
    """

    similarity: float = 0.7
    run_words: int = 3

    def __post_init__(self) -> None:
        key = "duplicates.similarity"
        require(0 < self.similarity <= 1, key, self.similarity, "must lie in (0, 1]")
        require(self.run_words >= 1, "duplicates.run_words", self.run_words, "must be >= 1")


@dataclass(slots=True, kw_only=True)
class ContaminationConfig:
    """When a problem is one of an evaluation's.

    Attributes:
        run_words: Words of a run. The field's post-training data has 8 with a `cover` of 0.5.
        cover: Smallest share of an evaluation's words that lie in runs that the problem has too,
            in (0, 1].
    """

    run_words: int = 8
    cover: float = 0.5

    def __post_init__(self) -> None:
        require(0 < self.cover <= 1, "contamination.cover", self.cover, "must lie in (0, 1]")
        require(self.run_words >= 1, "contamination.run_words", self.run_words, "must be >= 1")


@dataclass(slots=True, kw_only=True)
class PrepareTasksConfig:
    """Tasks that are worth training on: `python -m launch.prepare tasks`.

    Attributes:
        tasks: What is screened: `tasks.path` or `tasks.sources`.
        output: JSONL of the tasks that are kept; those removed are in NAME.removed.jsonl beside it.
        overwrite: Replace an existing output.
        sets: Evaluations whose problems are removed from the tasks: `evaluation_set=[...]`.
        data: Folder of the files of evaluations.
        duplicates: When a problem repeats another one.
        contamination: When a problem is one of an evaluation's.
        forms: Forms of mathematical questions that are removed.
        check_answers: Give each mathematical or logical reference answer to its own verifier, and
            remove the task where it is not judged right.
        num_rollouts: Answers of a policy to each task that is kept, for its pass rate; 0 for none.
            MiniMax-M1 has 10. They are kept in the folder NAME.rollouts, where a second call goes
            on.
        seed: Of sampling.
        engine: See `python -m launch.evaluate --help`.
        answers: See there.
        max_concurrent: Tasks under way at once.
        sampling: Of the policy's answers.
        policy: The policy.
        rollout: The engine.
        endpoint: The server.
        reward: Deadlines of graders; its `verifiers` are those that the tasks need.
        sandbox: Where programs run.
        cluster: Ray.
    """

    tasks: TasksConfig
    output: str = "prepared.jsonl"
    overwrite: bool = False
    sets: dict[str, EvaluationSetConfig] = field(default_factory=dict)
    data: str = "data"
    duplicates: DuplicatesConfig = field(default_factory=DuplicatesConfig)
    contamination: ContaminationConfig = field(default_factory=ContaminationConfig)
    forms: list[str] = field(default_factory=lambda: list(FORMS))
    check_answers: bool = True
    num_rollouts: int = 0
    seed: int = 0
    engine: str | None = None
    answers: str | None = None
    max_concurrent: int = 64
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    endpoint: EndpointConfig = field(default_factory=EndpointConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    def __post_init__(self) -> None:
        for form in self.forms:
            require(form in FORMS, "forms", form, f"choose among {', '.join(FORMS)}")
        require(self.num_rollouts >= 0, "num_rollouts", self.num_rollouts, "must be >= 0")
        require(self.output.endswith(".jsonl"), "output", self.output, "must end in .jsonl")
