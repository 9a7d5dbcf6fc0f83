"""Configuration of tasks for training and for held-out evaluation."""

from dataclasses import dataclass, field
from typing import Any

from cispo.config.policy import SamplingConfig
from cispo.config.require import require

GENERATED_KINDS = ("reasoning_gym", "code_family", "swe_toy", "long_context")
KINDS = (*GENERATED_KINDS, "swe", "long_context_file", "jsonl", "parquet", "huggingface")


@dataclass(slots=True, kw_only=True)
class SourceConfig:
    """One source of tasks.

    Attributes:
        kind: `reasoning_gym`, `code_family`, `swe_toy`, `long_context`, `swe` (a JSONL or parquet
            file of SWE instances), `long_context_file` (a public set, see `options.format`),
            `jsonl`, `parquet` or `huggingface`.
        name: The family, file or data set.
        weight: Share in the mixture, > 0.
        size: Tasks that a generated family has before it repeats.
        seed: Seed of a generated family; training and evaluation must differ.
        verifier: Verifier of file tasks.
        subset: Subset of a hub data set.
        split: Split of a hub data set.
        problem_field: Column with the problem.
        answer_field: Column with the answer.
        answer_marker: The answer is what follows the last of these in its column; empty takes the
            whole column.
        instruction: Text after each problem, which says in what form to answer.
        options: Arguments of the generator.
    """

    kind: str
    name: str
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


@dataclass(slots=True, kw_only=True)
class TasksConfig:
    """Tasks for training.

    Attributes:
        path: Local JSONL or parquet file, used instead of `sources`.
        sources: The mixture.
        verifier: Verifier of the tasks of `path`; with `swe` it is a file of SWE instances.
        instruction: Text after each problem of `path`.
        options: Options of `path`; `form` of SWE instances is `single_shot` or `agent`.
        held_out_fraction: Share of the tasks that training never sees, chosen by a hash of the
            prompt; evaluation draws from it unless it has a path or sources of its own.
        system_prompt: First message of every task, where not empty.
    """

    path: str | None = None
    sources: list[SourceConfig] = field(default_factory=list)
    verifier: str = "math"
    instruction: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    held_out_fraction: float = 0.0
    system_prompt: str = ""

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
