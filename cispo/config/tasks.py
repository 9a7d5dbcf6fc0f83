"""Configuration of tasks for training and for held-out evaluation."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cispo.config.curriculum import DifficultyConfig, PhaseConfig, check_curriculum
from cispo.config.policy import SamplingConfig
from cispo.config.require import require

GENERATED_KINDS = ("reasoning_gym", "code_family", "swe_toy", "long_context")
FILE_KINDS = ("swe", "long_context_file", "jsonl", "parquet")
KINDS = (*GENERATED_KINDS, *FILE_KINDS, "tau2", "huggingface")


@dataclass(slots=True, kw_only=True)
class SourceConfig:
    """One source of tasks.

    Attributes:
        kind: `reasoning_gym`, `code_family`, `swe_toy`, `long_context`, `swe` (a JSONL or parquet
            file of SWE instances), `long_context_file` (a public set, see `options.format`),
            `tau2` (conversations, where tau2-bench is installed), `jsonl`, `parquet` or
            `huggingface`.
        name: The family, file, domain or data set.
        label: What it is called in `tasks.curriculum` and in metrics; null takes the family, the
            data set, or the file's name without folder and ending.
        weight: Share in the mixture, > 0; with `tasks.curriculum` its phases say the share.
        size: Tasks that a generated family has before it repeats.
        seed: Seed of a generated family; training and evaluation must differ.
        verifier: Verifier of file tasks.
        subset: Subset of a hub data set.
        split: Split of a hub data set or of a domain.
        problem_field: Column with the problem.
        answer_field: Column with the answer.
        answer_marker: The answer is what follows the last of these in its column; empty takes the
            whole column.
        instruction: Text after each problem, which says in what form to answer.
        options: Arguments of the generator.
    """

    kind: str
    name: str
    label: str | None = None
    weight: float = 1.0
    size: int = 10_000
    seed: int = 0
    verifier: str = "math"
    subset: str | None = None
    split: str = "train"
    problem_field: str = "problem"
    answer_field: str = "answer"
    answer_marker: str = ""
    instruction: str = ""
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require(
            self.kind in KINDS,
            "tasks.sources.kind",
            self.kind,
            f"choose one of {', '.join(KINDS)}",
        )
        require(self.weight > 0, f"tasks.sources[{self.name}].weight", self.weight, "must be > 0")
        require(self.size >= 1, f"tasks.sources[{self.name}].size", self.size, "must be >= 1")

    @property
    def title(self) -> str:
        """The label, or what stands for it."""
        is_file = self.kind in FILE_KINDS
        return self.label or (Path(self.name).stem if is_file else self.name)


@dataclass(slots=True, kw_only=True)
class TasksConfig:
    """Tasks for training.

    Attributes:
        path: Local JSONL or parquet file, used instead of `sources`.
        sources: The mixture.
        verifier: Verifier of the tasks of `path`, for one of your own the name of its function;
            with `swe` it is a file of SWE instances.
        instruction: Text after each problem of `path`.
        options: Options of `path`; `form` of SWE instances is `single_shot` or `agent`.
        held_out_fraction: Share of the tasks that training never sees, chosen by a hash of the
            prompt; evaluation draws from it unless it has a path or sources of its own.
        system_prompt: First message of every task, where not empty.
        curriculum: Phases of the mixture by name, in order; none draws by the sources' weights
            throughout.
        difficulty: How hard tasks may be.
    """

    path: str | None = None
    sources: list[SourceConfig] = field(default_factory=list)
    verifier: str = "math"
    instruction: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    held_out_fraction: float = 0.0
    system_prompt: str = ""
    curriculum: dict[str, PhaseConfig] = field(default_factory=dict)
    difficulty: DifficultyConfig = field(default_factory=DifficultyConfig)

    def __post_init__(self) -> None:
        require(
            bool(self.sources) or self.path is not None,
            "tasks.sources",
            self.sources,
            "name at least one source of tasks, or a file by tasks.path",
        )
        require(
            0 <= self.held_out_fraction < 1,
            "tasks.held_out_fraction",
            self.held_out_fraction,
            "must lie in [0, 1)",
        )
        used = [self.path] if self.path is not None else []
        check_curriculum(
            self.curriculum,
            [Path(path).stem for path in used] or [source.title for source in self.sources],
        )


@dataclass(slots=True, kw_only=True)
class EvaluationConfig:
    """Held-out evaluation before, during and after the run.

    Attributes:
        every: Iterations between evaluations; 0 evaluates only before and after the run, -1 never.
        num_tasks: Held-out tasks.
        num_rollouts: k of avg@k and pass@k.
        path: Local JSONL or parquet file of held-out tasks, used instead of `sources`.
        sources: The held-out mixture; empty takes what training holds out.
        sampling: Sampling in evaluation.
    """

    every: int = 10
    num_tasks: int = 64
    num_rollouts: int = 4
    path: str | None = None
    sources: list[SourceConfig] = field(default_factory=list)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)

    def __post_init__(self) -> None:
        require(self.every >= -1, "evaluation.every", self.every, "must be >= -1")
        require(self.num_tasks >= 1, "evaluation.num_tasks", self.num_tasks, "must be >= 1")
        require(
            self.num_rollouts >= 1, "evaluation.num_rollouts", self.num_rollouts, "must be >= 1"
        )
