"""Configuration of the examination of tasks."""

from dataclasses import dataclass, field

from cispo.config.require import require
from cispo.config.sandbox import SandboxConfig
from cispo.config.tasks import TasksConfig


@dataclass(slots=True, kw_only=True)
class AdmitConfig:
    """The admission gate: `python -m launch.admit`.

    Attributes:
        tasks: Tasks of programs and repositories; others need no admission.
        sandbox: Where they run, as in training.
        num_runs: How often each answer is tried.
        num_generated: Tasks of a generated source that stand for all of them.
        anew: Examine also what has a verdict.
        report: JSONL that gets a line a task; null for none.
    """

    tasks: TasksConfig
    sandbox: SandboxConfig = field(default_factory=SandboxConfig)
    num_runs: int = 3
    num_generated: int = 16
    anew: bool = False
    report: str | None = None

    def __post_init__(self) -> None:
        require(self.num_runs >= 1, "num_runs", self.num_runs, "must be >= 1")
        require(self.num_generated >= 1, "num_generated", self.num_generated, "must be >= 1")
