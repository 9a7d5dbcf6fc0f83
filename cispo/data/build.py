"""From the configuration to training tasks and held-out tasks that do not overlap."""

import hashlib
from collections.abc import Callable, Collection, Sequence

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
        case "swe_toy":
            from cispo.data.swe.toy import SweToyFamily

            return SweToyFamily(source.size, source.seed, **source.options)
        case "long_context":
            from cispo.data.long_context.family import LongContextFamily

            return LongContextFamily(source.name, source.size, source.seed, source.options)
        case "long_context_file":
            from cispo.data.long_context.files import PublicTable

            return PublicTable(source)
        case "swe":
            from cispo.data.swe.table import read_instances

            return read_instances(source)
        case _:
            return read_rows(source)


def held_out_tasks(
    tasks: TasksConfig,
    evaluation: EvaluationConfig,
    *,
    seed: int,
    refused: Collection[str] = (),
) -> tuple[Task, ...]:
    """Draw `evaluation.num_tasks` different tasks.

    They come from `evaluation.path` or `evaluation.sources`; without either, from the share of the
    training sources that `tasks.held_out_fraction` keeps out of training.

    Args:
        tasks: The training sources.
        evaluation: The held-out sources, if they have their own.
        seed: Decides which tasks.
        refused: Ids of tasks that are left out.

    Raises:
        ConfigError: There is nothing to draw from, or it has fewer different tasks than asked for.
    """
    sources = file_source(evaluation.path, tasks) or evaluation.sources
    if not sources and tasks.held_out_fraction == 0:
        raise ConfigError(
            "tasks.held_out_fraction=0.0: evaluation has no tasks; give evaluation.path=FILE, "
            "a fraction of the training tasks, or evaluation.every=-1 for none"
        )
    fraction = 1.0 if sources else tasks.held_out_fraction

    def accepts(task: Task) -> bool:
        return is_held_out(task, fraction) and task.task_id not in refused

    mixture = _mixture(
        sources or training_sources(tasks),
        tasks,
        seed=stream_seed(seed, "held_out"),
        accepts=accepts,
    )
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


def training_tasks(
    tasks: TasksConfig,
    *,
    seed: int,
    held_out: Sequence[Task] = (),
    refused: Collection[str] = (),
) -> TaskMixture:
    """Mix the training sources, without what is held out by fraction or by name, or refused."""
    named = frozenset(prompt_text(task) for task in held_out)

    def accepts(task: Task) -> bool:
        if task.task_id in refused:
            return False
        return not is_held_out(task, tasks.held_out_fraction) and prompt_text(task) not in named

    return _mixture(
        training_sources(tasks), tasks, seed=stream_seed(seed, "training"), accepts=accepts
    )


def is_held_out(task: Task, fraction: float) -> bool:
    """Decide by the prompt alone, so that no seed, order or data set size moves the border."""
    digest = hashlib.sha256(prompt_text(task).encode()).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64


def training_sources(tasks: TasksConfig) -> list[SourceConfig]:
    """The sources of training: `tasks.path` alone where it is given, else `tasks.sources`."""
    return file_source(tasks.path, tasks) or tasks.sources


def file_source(path: str | None, tasks: TasksConfig) -> list[SourceConfig]:
    """One source for a local file, or none for None."""
    if path is None:
        return []
    if tasks.verifier == "swe":
        return [SourceConfig(kind="swe", name=path, options=tasks.options)]
    kind = "parquet" if path.endswith(".parquet") else "jsonl"
    return [
        SourceConfig(kind=kind, name=path, verifier=tasks.verifier, instruction=tasks.instruction)
    ]


def _mixture(
    sources: Sequence[SourceConfig],
    tasks: TasksConfig,
    *,
    seed: int,
    accepts: Callable[[Task], bool],
) -> TaskMixture:
    return TaskMixture(
        [open_table(source) for source in sources],
        [source.weight for source in sources],
        seed=seed,
        accepts=accepts,
        system_prompt=tasks.system_prompt,
    )
