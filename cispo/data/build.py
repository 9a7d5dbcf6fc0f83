"""From the configuration to training tasks and held-out tasks that do not overlap."""

import hashlib
from collections.abc import Collection, Sequence

from cispo.config import EvaluationConfig, SourceConfig, TasksConfig
from cispo.config.tasks import GENERATED_KINDS
from cispo.data.base import Labelled, TaskTable
from cispo.data.curriculum import Curriculum
from cispo.data.mixture import TaskMixture, prompt_text
from cispo.data.rows import read_rows
from cispo.data.skips import SkipReason, measured_too
from cispo.data.solved import SolvedTasks
from cispo.errors import ConfigError
from cispo.seeding import stream_seed
from cispo.types import Task


def open_table(source: SourceConfig) -> TaskTable:
    """Open the table that a source names, whose tasks take its label for their source.

    Raises:
        ConfigError: It does not exist or holds a bad row.
    """
    table = _open_table(source)
    return Labelled(table, source.label) if source.label else table


def _open_table(source: SourceConfig) -> TaskTable:
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
        case "tau2":
            from cispo.data.tau2 import Tau2Table

            return Tau2Table(source)
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

    def skips(task: Task) -> SkipReason | None:
        if task.task_id in refused:
            return SkipReason.NOT_ADMITTED
        return None if is_held_out(task, fraction) else SkipReason.FOR_TRAINING

    drawn_from = sources or training_sources(tasks)
    mixture = TaskMixture(
        [open_table(source) for source in drawn_from],
        [source.weight for source in drawn_from],
        seed=stream_seed(seed, "held_out"),
        skips=skips,
        system_prompt=tasks.system_prompt,
        labels=[source.title for source in drawn_from],
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
    """Mix the training sources by their curriculum.

    Left out is what is held out by fraction or by name, refused, or measured as too hard or easy.
    """
    named = frozenset(prompt_text(task) for task in held_out)
    difficulty = tasks.difficulty

    def skips(task: Task) -> SkipReason | None:
        if task.task_id in refused:
            return SkipReason.NOT_ADMITTED
        if is_held_out(task, tasks.held_out_fraction) or prompt_text(task) in named:
            return SkipReason.HELD_OUT
        return measured_too(task, above=difficulty.above, below=difficulty.below)

    sources = training_sources(tasks)
    labels = [source.title for source in sources]
    tables = [open_table(source) for source in sources]
    if difficulty.above is not None or difficulty.below is not None:
        _require_measured(tables, sources)
    return TaskMixture(
        tables,
        [source.weight for source in sources],
        seed=stream_seed(seed, "training"),
        skips=skips,
        system_prompt=tasks.system_prompt,
        labels=labels,
        curriculum=Curriculum(tasks.curriculum, labels) if tasks.curriculum else None,
        solved=SolvedTasks(difficulty.solved_at) if difficulty.solved_at else None,
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


def _require_measured(tables: Sequence[TaskTable], sources: Sequence[SourceConfig]) -> None:
    """Refuse bounds of the pass rate where no task has one."""
    for table, source in zip(tables, sources, strict=True):
        if source.kind not in GENERATED_KINDS:
            tasks = (table[row] for row in range(len(table)))
            if any(task.pass_rate is not None for task in tasks):
                return
    raise ConfigError(
        f"tasks.difficulty: no task of {', '.join(source.title for source in sources)} has a "
        "pass_rate for `above` and `below` to act on; measure it with "
        "python -m launch.prepare tasks, or set both to null"
    )
