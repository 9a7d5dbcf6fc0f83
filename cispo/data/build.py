"""From the configuration to training tasks and held-out tasks that do not overlap."""

from collections.abc import Sequence
from dataclasses import replace

from cispo.config import EvaluationConfig, SourceConfig, TasksConfig
from cispo.data.base import TaskTable
from cispo.data.mixture import TaskMixture, prompt_text
from cispo.data.rows import read_rows
from cispo.errors import ConfigError
from cispo.seeding import stream_seed
from cispo.types import Task


def open_table(source: SourceConfig) -> TaskTable:
    """Open the table that a source names.

    Raises:
        ConfigError: It does not exist or holds a bad row.
    """
    match source.kind:
        case "reasoning_gym":
            from cispo.data.reasoning_gym_family import ReasoningGymFamily

            return ReasoningGymFamily(source.name, source.size, source.seed, source.options)
        case "code_family":
            from cispo.data.code_family import CodeFamily

            return CodeFamily(source.size, source.seed)
        case _:
            return read_rows(source)


def held_out_tasks(
    tasks: TasksConfig, evaluation: EvaluationConfig, *, seed: int
) -> tuple[Task, ...]:
    """Draw `evaluation.num_tasks` different tasks.

    They come from `evaluation.path` or `evaluation.sources`; without either, from the training
    sources: generated
    families at seeds after the training range, files at rows that training then leaves out.

    Raises:
        ConfigError: The sources have fewer different tasks than asked for.
    """
    sources = file_source(evaluation.path, tasks) or evaluation.sources
    sources = sources or [_after_training(source) for source in training_sources(tasks)]
    mixture = _mixture(sources, tasks, seed=stream_seed(seed, "held_out"))
    found: dict[str, Task] = {}
    for index in range(50 * evaluation.num_tasks):
        task = mixture.task(index)
        found.setdefault(prompt_text(task), task)
        if len(found) == evaluation.num_tasks:
            return tuple(found.values())
    raise ConfigError(
        f"evaluation.num_tasks={evaluation.num_tasks}: the sources have only {len(found)} "
        "different tasks"
    )


def training_tasks(tasks: TasksConfig, *, seed: int, held_out: Sequence[Task] = ()) -> TaskMixture:
    """Mix the training sources, without the held-out tasks."""
    excluded = frozenset(prompt_text(task) for task in held_out)
    return _mixture(
        training_sources(tasks), tasks, seed=stream_seed(seed, "training"), excluded=excluded
    )


def training_sources(tasks: TasksConfig) -> list[SourceConfig]:
    """The sources of training: `tasks.path` alone where it is given, else `tasks.sources`."""
    return file_source(tasks.path, tasks) or tasks.sources


def file_source(path: str | None, tasks: TasksConfig) -> list[SourceConfig]:
    """One source for a local file, or none for None."""
    if path is None:
        return []
    kind = "parquet" if path.endswith(".parquet") else "jsonl"
    return [
        SourceConfig(kind=kind, name=path, verifier=tasks.verifier, instruction=tasks.instruction)
    ]


def _mixture(
    sources: Sequence[SourceConfig],
    tasks: TasksConfig,
    *,
    seed: int,
    excluded: frozenset[str] = frozenset(),
) -> TaskMixture:
    return TaskMixture(
        [open_table(source) for source in sources],
        [source.weight for source in sources],
        seed=seed,
        system_prompt=tasks.system_prompt,
        excluded_prompts=excluded,
    )


def _after_training(source: SourceConfig) -> SourceConfig:
    generated = source.kind in ("reasoning_gym", "code_family")
    return replace(source, seed=source.seed + source.size) if generated else source
