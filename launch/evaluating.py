"""One evaluation, from its configuration to results, a table and a plot."""

import asyncio
import json
from dataclasses import asdict, replace
from pathlib import Path
from random import Random
from typing import Any

from cispo.config.evaluate import EvaluateConfig, EvaluationSetConfig
from cispo.config.tasks import FILE_KINDS, GENERATED_KINDS
from cispo.data.build import open_table
from cispo.errors import ConfigError
from cispo.evaluation.answers import Answer, AnswerFile
from cispo.evaluation.results import compare_results, describe_set
from cispo.evaluation.run import ProblemSet, answer_all
from cispo.ports import Progress
from cispo.tracking.console import open_console
from cispo.types import Task
from launch.evaluation_engines import open_engines
from launch.evaluation_report import difference_lines, draw, result_lines
from rewards.build import build_verifier, named_verifiers
from rewards.votes import vote

RESULTS = "results.json"


def run_evaluation(cfg: EvaluateConfig) -> None:
    """Answer all problems that the output does not hold yet; write, draw and print the results.

    Raises:
        CispoError: The configuration is refused, or a problem cannot be answered.
    """
    tasks = {name: _tasks(name, one, seed=cfg.seed) for name, one in cfg.sets.items()}
    output = Path(cfg.output).expanduser()
    file = AnswerFile(output, answer_settings(cfg), overwrite=cfg.overwrite)
    num_problems = sum(len(found) for found in tasks.values())
    with open_console(name=_name(cfg), iterations=num_problems) as console:
        answers = asyncio.run(answer_sets(cfg, tasks, file, console.progress))
    described = {
        name: describe_set(
            answers[name], num_rollouts=one.num_rollouts, metric=one.metric, seed=cfg.seed
        )
        for name, one in cfg.sets.items()
    }
    results = {"name": _name(cfg), "settings": answer_settings(cfg), "sets": described}
    (output / RESULTS).write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    draw([results], output / "results.png")
    for line in result_lines(results):
        print(line)
    print(f"answers, results and plot: {output}")


def run_comparison(cfg: EvaluateConfig) -> None:
    """Print how two results differ on the problems that both have, and draw both.

    Raises:
        ConfigError: One is missing or is no result, or they have nothing in common.
    """
    ours, theirs = (_read_results(Path(path).expanduser()) for path in cfg.compare)
    compared = compare_results(ours, theirs, seed=cfg.seed)
    for line in difference_lines(ours, theirs, compared):
        print(line)
    output = Path(cfg.output).expanduser()
    output.mkdir(parents=True, exist_ok=True)
    found = {
        name: {metric: asdict(apart) for metric, apart in metrics.items()}
        for name, metrics in compared.items()
    }
    (output / "comparison.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    draw([ours, theirs], output / "comparison.png")


async def answer_sets(
    cfg: EvaluateConfig, tasks: dict[str, list[Task]], file: AnswerFile, progress: Progress
) -> dict[str, list[Answer]]:
    """Answer and judge what the file does not hold, and return all answers by set.

    Raises:
        CispoError: A problem cannot be answered, or its verifier does not exist.
    """
    named = named_verifiers(cfg.reward.verifiers)
    used = sorted({task.verifier for found in tasks.values() for task in found})
    verifiers = [named.get(name, name) for name in used]
    verifier = build_verifier(
        replace(cfg.reward, verifiers=verifiers, overlong_cache_tokens=0),
        cfg.sandbox,
        max_new_tokens=max(one.max_new_tokens for one in cfg.sets.values()),
    )
    try:
        await verifier.start()
        async with open_engines(cfg, progress) as engines:
            sets = [
                ProblemSet(
                    name=name,
                    tasks=tasks[name],
                    engine=engines.with_sampling(
                        replace(cfg.sampling, max_new_tokens=one.max_new_tokens)
                    ),
                    num_rollouts=one.num_rollouts,
                )
                for name, one in cfg.sets.items()
            ]
            return await answer_all(
                sets,
                verifier,
                file,
                vote=vote,
                seed=cfg.seed,
                max_concurrent=cfg.max_concurrent,
                progress=progress,
            )
    finally:
        await verifier.close()


def _tasks(name: str, one: EvaluationSetConfig, *, seed: int) -> list[Task]:
    source = one.source
    if source.kind in FILE_KINDS and not Path(source.name).expanduser().is_file():
        raise ConfigError(
            f"sets.{name}.source.name={source.name}: no such file; set data=FOLDER with the files "
            "of problems, or name the file"
        )
    table = open_table(source)
    rows = list(range(len(table)))
    if source.kind in GENERATED_KINDS:
        if one.num_tasks is None:
            raise ConfigError(f"sets.{name}.num_tasks=null: a generated family has no end")
    else:
        Random(f"{name}/{seed}").shuffle(rows)
    if one.num_tasks is not None and one.num_tasks > len(rows):
        raise ConfigError(f"sets.{name}.num_tasks={one.num_tasks}: there are {len(rows)}")
    tasks = {task.task_id: task for task in map(table.__getitem__, rows[: one.num_tasks])}
    return list(tasks.values())


def answer_settings(cfg: EvaluateConfig) -> dict[str, Any]:
    """Return what the answers depend on, for their file."""
    settings: dict[str, Any] = {
        "engine": cfg.engine,
        "seed": cfg.seed,
        "asked": _asked(cfg),
        "sampling": {**asdict(cfg.sampling), "max_new_tokens": None},
    }
    for name, one in cfg.sets.items():
        settings[f"sets.{name}.source"] = asdict(one.source)
        settings[f"sets.{name}.max_new_tokens"] = one.max_new_tokens
    return settings


def _asked(cfg: EvaluateConfig) -> list[object]:
    """Return who is asked; weights that were written anew are not who was asked before."""
    match cfg.engine:
        case "local" | "ray":
            path = str(cfg.policy.path)
            return [cfg.rollout.backend, path, cfg.policy.dtype, _written_seconds(path)]
        case "endpoint":
            return [cfg.endpoint.url, cfg.endpoint.model]
        case "answers":
            return [cfg.answers, _written_seconds(str(cfg.answers))]
        case _:
            return []


def _written_seconds(path: str) -> int | None:
    """Return when a file or the weights in a folder were last written; None for a hub's id."""
    place = Path(path).expanduser()
    files = [place] if place.is_file() else sorted(place.glob("*.safetensors"))
    return max((int(file.stat().st_mtime) for file in files), default=None)


def _name(cfg: EvaluateConfig) -> str:
    if cfg.name is not None:
        return cfg.name
    match cfg.engine:
        case "local" | "ray":
            return Path(str(cfg.policy.path)).name
        case "endpoint":
            return cfg.endpoint.model
        case "answers":
            return Path(str(cfg.answers)).stem
        case scripted:
            return str(scripted)


def _read_results(path: Path) -> dict[str, Any]:
    file = path / RESULTS if path.is_dir() else path
    try:
        results = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(results, dict) and all(
            key in results for key in ("name", "settings", "sets")
        ):
            return results
    except (OSError, ValueError) as error:
        raise ConfigError(f"compare: {file} cannot be read ({error})") from error
    raise ConfigError(f"compare: {file} is no result of python -m launch.evaluate")
