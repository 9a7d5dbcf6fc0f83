"""The admission gate: examines tasks on command, and asks whether they were when a run starts."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from cispo.config import EvaluationConfig, SandboxConfig, SourceConfig, TasksConfig
from cispo.config.admit import AdmitConfig
from cispo.config.tasks import GENERATED_KINDS
from cispo.data.build import file_source, open_table, training_sources
from cispo.errors import ConfigError
from cispo.tracking.console import open_console
from cispo.types import Task
from rewards.admission import NEEDS_ADMISSION, Admission, Admissions, Examiner, examine_all
from rewards.code import CodeGrader
from rewards.swe.grader import LostError, SweGrader
from sandboxes.build import build_sandbox, build_workspaces, sandbox_limits
from sandboxes.swe.environment import default_cache
from sandboxes.swe.proof import prove

PHASE = "admit"
_PROBED_GENERATED = 4

Verdicts = Mapping[str, Admission | LostError]


def run_admission(cfg: AdmitConfig) -> None:
    """Examine all tasks that need it, and list those that are refused.

    Raises:
        ConfigError: There is nothing to examine, or nothing of it is admitted.
    """
    tasks = [
        task
        for source in training_sources(cfg.tasks)
        for task in _tasks_of(source, num_generated=cfg.num_generated)
    ]
    if not tasks:
        raise ConfigError(
            f"tasks: no task needs admission; those of {', '.join(sorted(NEEDS_ADMISSION))} do"
        )
    with open_console(name=PHASE, iterations=len(tasks)) as console:
        console.progress.start(PHASE, len(tasks))
        verdicts = asyncio.run(
            _examine(
                tasks,
                cfg.sandbox,
                num_runs=cfg.num_runs,
                anew=cfg.anew,
                advance=lambda: console.progress.advance(PHASE),
            )
        )
        console.progress.finish(PHASE)
    if cfg.report is not None:
        _write_report(Path(cfg.report), verdicts)
    for line in summary(verdicts):
        print(line)
    if not any(isinstance(v, Admission) and v.is_admitted for v in verdicts.values()):
        raise ConfigError("no task is admitted")


def refused_tasks(
    tasks: TasksConfig, evaluation: EvaluationConfig, sandbox: SandboxConfig
) -> frozenset[str]:
    """Return the ids of tasks that a run must leave out.

    Tasks of files must have been examined before. Of generated families a few are examined now,
    once: what makes them is part of this project, so that they stand for the others.

    Raises:
        ConfigError: Tasks were not examined, or a generated family is refused.
    """
    sources = [*training_sources(tasks)]
    sources += file_source(evaluation.path, tasks) or evaluation.sources
    admissions = Admissions(cache_of(sandbox))
    refused: set[str] = set()
    for source in sources:
        candidates = list(_tasks_of(source, num_generated=_PROBED_GENERATED))
        known = {task.task_id: admissions.find(task) for task in candidates}
        missing = [task for task in candidates if known[task.task_id] is None]
        if missing and source.kind in GENERATED_KINDS:
            verdicts = asyncio.run(_examine(missing, sandbox, num_runs=1))
            _require_all(source, verdicts)
        elif missing:
            raise ConfigError(
                f"tasks.sources[{source.name}]: {len(missing)} of {len(candidates)} tasks that run "
                f"programs were not admitted, {missing[0].task_id} for one; run "
                "python -m launch.admit with the same tasks and sandbox.swe settings"
            )
        refused |= {name for name, verdict in known.items() if verdict and not verdict.is_admitted}
    return frozenset(refused)


def cache_of(sandbox: SandboxConfig) -> Path:
    """Return the folder of environments and admissions."""
    cache = sandbox.swe.cache
    return Path(cache).expanduser() if cache else default_cache()


def summary(verdicts: Verdicts) -> Iterator[str]:
    """Yield a line for each task that is left out, and one for all."""
    kinds: Counter[str] = Counter()
    for name, verdict in verdicts.items():
        match verdict:
            case Admission(is_admitted=True):
                kinds["admitted"] += 1
            case Admission(reason=reason):
                kinds[reason.partition(":")[0]] += 1
                yield f"refused   {name}: {reason}"
            case _:
                kinds["without a verdict"] += 1
                yield f"lost      {name}: {verdict}; run again"
    listed = ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items()))
    yield f"{len(verdicts)} tasks: {listed}"


def _tasks_of(source: SourceConfig, *, num_generated: int) -> Iterator[Task]:
    """Yield the tasks of a source that need admission."""
    if source.kind == "reasoning_gym":
        return
    table = open_table(source)
    length = len(table)
    if source.kind in GENERATED_KINDS:
        length = min(length, num_generated)
    for row in range(length):
        task = table[row]
        if task.verifier in NEEDS_ADMISSION:
            yield task


async def _examine(
    tasks: Sequence[Task],
    sandbox: SandboxConfig,
    *,
    num_runs: int,
    anew: bool = False,
    advance: Callable[[], None] = lambda: None,
) -> Verdicts:
    used = {task.verifier for task in tasks}
    most = sandbox.max_concurrent
    async with AsyncExitStack() as stack:
        code = swe = None
        if "code" in used:
            programs = build_sandbox(sandbox)
            stack.push_async_callback(programs.close)
            await programs.probe()
            code = CodeGrader(programs, sandbox_limits(sandbox), max_concurrent=most)
        if "swe" in used:
            workspaces = build_workspaces(sandbox)
            stack.push_async_callback(workspaces.close)
            await prove(workspaces, scratch=cache_of(sandbox) / "proofs")
            swe = SweGrader(workspaces, sandbox.swe, max_concurrent=most)
        examiner = Examiner(
            code,
            swe,
            Admissions(cache_of(sandbox)),
            num_runs=num_runs,
            min_canary_bits=sandbox.swe.min_canary_bits,
        )
        return await examine_all(examiner, tasks, max_concurrent=most, anew=anew, advance=advance)


def _require_all(source: SourceConfig, verdicts: Verdicts) -> None:
    for name, verdict in verdicts.items():
        if isinstance(verdict, LostError) or not verdict.is_admitted:
            why = verdict if isinstance(verdict, LostError) else verdict.reason
            raise ConfigError(f"tasks.sources[{source.name}]: {name} is not admitted: {why}")


def _write_report(path: Path, verdicts: Verdicts) -> None:
    with path.open("w", encoding="utf-8") as file:
        for name, verdict in verdicts.items():
            line: dict[str, object] = {"task_id": name}
            if isinstance(verdict, Admission):
                line |= {"is_admitted": verdict.is_admitted, "reason": verdict.reason}
            else:
                line |= {"is_admitted": None, "reason": str(verdict)}
            file.write(json.dumps(line) + "\n")
