"""Tasks from their sources to a file of those worth training on, with how hard each is."""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from cispo.config import SourceConfig
from cispo.config.evaluate import EvaluateConfig, EvaluationSetConfig
from cispo.config.prepare_tasks import PrepareTasksConfig
from cispo.data.build import open_table, training_sources
from cispo.data.mixture import prompt_text
from cispo.data.screening.removal import Removal, RemovalReason
from cispo.data.screening.screen import screen
from cispo.data.task_rows import task_row, write_rows
from cispo.errors import ConfigError
from cispo.evaluation.answers import Answer, AnswerFile
from cispo.ports import Progress
from cispo.tracking.console import open_console
from cispo.types import Message, Task
from launch.evaluating import answer_sets, answer_settings
from launch.preparation_report import summary_lines
from rewards.references import check_references

_SET = "pass_rate"


def prepare_tasks(cfg: PrepareTasksConfig) -> None:
    """Screen the tasks, measure how hard they are, write both files, and print a summary.

    Raises:
        CispoError: A source, an evaluation or the output cannot be used, or a task not be answered.
    """
    output = Path(cfg.output).expanduser()
    if not output.parent.is_dir():
        raise ConfigError(f"output={output}: the folder {output.parent} does not exist")
    if output.exists() and not cfg.overwrite:
        raise ConfigError(f"output={output}: exists; name another file, or overwrite=true")
    sources = training_sources(cfg.tasks)
    tasks = _all_tasks(sources)
    removed = screen(
        tasks,
        [prompt_text(task) for task in _all_tasks(_bare(sources))],
        _evaluations(cfg.sets),
        similarity=cfg.duplicates.similarity,
        duplicate_run_words=cfg.duplicates.run_words,
        cover=cfg.contamination.cover,
        contamination_run_words=cfg.contamination.run_words,
        forms=[RemovalReason(form) for form in cfg.forms],
    )
    with open_console(name=output.stem, iterations=len(tasks)) as console:
        if cfg.check_answers:
            left = {i: task for i, task in enumerate(tasks) if i not in removed}
            checking = check_references(left, cfg.reward, progress=console.progress)
            removed |= asyncio.run(checking)
        kept = [task for index, task in enumerate(tasks) if index not in removed]
        _require_different_ids(kept)
        if cfg.num_rollouts and kept:
            folder = output.with_name(f"{output.stem}.rollouts")
            asked = sorted({source.instruction for source in sources})
            measuring = _measured(cfg, kept, folder, console.progress, instructions=asked)
            kept = asyncio.run(measuring)
    write_rows(output, map(task_row, kept))
    beside = output.with_name(f"{output.stem}.removed.jsonl")
    write_rows(beside, (_removed_row(tasks[index], removed[index]) for index in sorted(removed)))
    for line in summary_lines(tasks, removed, kept, was_measured=cfg.num_rollouts > 0):
        print(line)
    print(f"kept: {output}; removed, each with its reason: {beside}")


def _all_tasks(sources: Sequence[SourceConfig]) -> list[Task]:
    tasks = []
    for table in map(open_table, sources):
        tasks += [table[row] for row in range(len(table))]
    for task in tasks:
        if task.is_agentic or task.verifier == "swe":
            raise ConfigError(
                f"tasks: {task.task_id} is software engineering, which python -m launch.admit "
                "checks; leave its source out"
            )
    return tasks


def _bare(sources: Sequence[SourceConfig]) -> list[SourceConfig]:
    """The sources without what they say after every problem."""
    return [replace(source, instruction="") for source in sources]


def _evaluations(sets: Mapping[str, EvaluationSetConfig]) -> dict[str, str]:
    """What the evaluations ask, by set and task."""
    return {
        f"{name}: {task.task_id}": prompt_text(task)
        for name, one in sets.items()
        for task in _all_tasks(_bare([one.source]))
    }


def _require_different_ids(tasks: Sequence[Task]) -> None:
    known: dict[str, Task] = {}
    for task in tasks:
        other = known.setdefault(task.task_id, task)
        if other is not task:
            raise ConfigError(
                f"tasks: two are called {task.task_id}, of {other.source} and {task.source}; give "
                "their rows a task_id, or their files different names"
            )


async def _measured(
    cfg: PrepareTasksConfig,
    tasks: Sequence[Task],
    folder: Path,
    progress: Progress,
    *,
    instructions: Sequence[str],
) -> list[Task]:
    """Let the policy answer each task, as training would ask it, and note its pass rate."""
    evaluation = _as_evaluation(cfg)
    asked = {"instructions": instructions, "system_prompt": cfg.tasks.system_prompt}
    file = AnswerFile(folder, answer_settings(evaluation) | asked, overwrite=False)
    system = cfg.tasks.system_prompt
    prompted = [_prompted(task, system) if system else task for task in tasks]
    answers = (await answer_sets(evaluation, {_SET: prompted}, file, progress))[_SET]
    judged: defaultdict[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        if answer.parts is not None:
            judged[answer.task_id].append(answer)
    rates = {name: sum(a.is_right for a in given) / len(given) for name, given in judged.items()}
    return [replace(task, pass_rate=rates.get(task.task_id)) for task in tasks]


def _prompted(task: Task, system: str) -> Task:
    return replace(task, messages=(Message(role="system", content=system), *task.messages))


def _as_evaluation(cfg: PrepareTasksConfig) -> EvaluateConfig:
    """The measurement is an evaluation of one set, of the tasks themselves."""
    one = EvaluationSetConfig(
        source=SourceConfig(kind="jsonl", name=cfg.output),
        num_rollouts=cfg.num_rollouts,
        max_new_tokens=cfg.sampling.max_new_tokens,
    )
    return EvaluateConfig(
        sets={_SET: one},
        seed=cfg.seed,
        engine=cfg.engine,
        answers=cfg.answers,
        max_concurrent=cfg.max_concurrent,
        sampling=cfg.sampling,
        policy=cfg.policy,
        rollout=cfg.rollout,
        endpoint=cfg.endpoint,
        reward=cfg.reward,
        sandbox=cfg.sandbox,
        cluster=cfg.cluster,
    )


def _removed_row(task: Task, removal: Removal) -> dict[str, object]:
    return {"reason": str(removal.reason), "detail": removal.detail, **task_row(task)}
