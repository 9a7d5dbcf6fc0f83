"""Everything that can be refused before Ray, a model or any other process is started."""

import asyncio
import shutil
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cispo.config import PolicyConfig, RunConfig, SandboxConfig
from cispo.data.build import held_out_tasks, training_tasks
from cispo.data.mixture import TaskMixture
from cispo.errors import ConfigError
from cispo.types import Task
from launch.admitting import cache_of, refused_tasks
from launch.context import check_context, check_interruption
from launch.disk_space import check_disk_space, estimated_bytes, num_at_once
from launch.resume import Resume, read_resume
from launch.sharing import check_sharing
from rewards.admission import NEEDS_ADMISSION
from rewards.build import named_verifiers
from rewards.own_function import is_own
from rewards.trial import try_verifiers
from rollout.backends.vllm_models import check_vllm
from sandboxes.build import build_sandbox, build_workspaces
from sandboxes.swe.proof import prove

PROBED_TASKS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedTasks:
    """Tasks that were read and checked.

    Attributes:
        training: The mixture, without held-out tasks.
        held_out: Empty where the run never evaluates.
    """

    training: TaskMixture
    held_out: Sequence[Task]


def check_run(cfg: RunConfig) -> tuple[CheckedTasks, Resume]:
    """Check everything from outside that a run needs; `cfg.policy.path` becomes a full path.

    Raises:
        ConfigError: Something is missing or bad; the message says what to do.
        CheckpointError: The checkpoint to resume from is missing, damaged, or another run's.
    """
    cfg.policy.path = check_policy_path(cfg.policy)
    if cfg.rollout.backend == "vllm":
        check_vllm(cfg.policy.path)
    check_sharing(cfg.policy, cfg.learner.sequence_parallel)
    resume = read_resume(cfg.resume, asdict(cfg))
    if resume.iteration >= cfg.iterations:
        raise ConfigError(
            f"iterations={cfg.iterations}: the checkpoint has {resume.iteration} behind it; "
            "set a larger number to go on"
        )
    check_run_dir(cfg.run_dir, may_exist=cfg.overwrite or resume.continues(cfg.run_dir))
    check_disk_space(
        cfg.run_dir,
        one_checkpoint=resume.num_bytes or estimated_bytes(cfg.policy, cfg.learner),
        count=num_at_once(
            iterations=cfg.iterations - resume.iteration,
            checkpoint_every=cfg.checkpoint_every,
            keep=cfg.keep_checkpoints,
        ),
    )
    return check_tasks(cfg), resume


def check_tasks(cfg: RunConfig) -> CheckedTasks:
    """Read all tasks, and probe the sandbox if any of them runs programs.

    Raises:
        ConfigError: A source, a line, a verifier or the sandbox is missing or bad, or tasks that
            run programs were not admitted.
    """
    verifiers = named_verifiers(cfg.reward.verifiers)
    evaluates = cfg.evaluation.every >= 0
    refused = refused_tasks(cfg.tasks, cfg.evaluation, cfg.sandbox)
    held_out = (
        held_out_tasks(cfg.tasks, cfg.evaluation, seed=cfg.seed, refused=refused)
        if evaluates
        else ()
    )
    training = training_tasks(cfg.tasks, seed=cfg.seed, held_out=held_out, refused=refused)
    sampled = training.preview(PROBED_TASKS)
    probed = [*held_out, *sampled]
    used = {task.verifier for task in probed}
    check_verifiers(sorted(used), verifiers)
    own = {name: verifiers[name] for name in used if is_own(verifiers[name])}
    try_verifiers(own, probed, deadline_seconds=cfg.reward.deadline_seconds)
    if NEEDS_ADMISSION & used:
        asyncio.run(_probe(cfg.sandbox, has_repositories="swe" in used))
    if cfg.rollout.backend != "scripted":
        check_context(cfg.policy, cfg.rollout.sampling, sampled, key="rollout.sampling")
        check_context(cfg.policy, cfg.evaluation.sampling, held_out, key="evaluation.sampling")
        _check_interruptions(cfg)
    return CheckedTasks(training=training, held_out=held_out)


def _check_interruptions(cfg: RunConfig) -> None:
    training, held_out = cfg.rollout.sampling, cfg.evaluation.sampling
    least = cfg.length_window.least(training.max_new_tokens)
    check_interruption(cfg.policy, training, max_new_tokens=least, key="rollout.sampling")
    check_interruption(
        cfg.policy, held_out, max_new_tokens=held_out.max_new_tokens, key="evaluation.sampling"
    )


async def _probe(settings: SandboxConfig, *, has_repositories: bool) -> None:
    sandbox = build_sandbox(settings)
    try:
        await sandbox.probe()
    finally:
        await sandbox.close()
    if has_repositories:
        workspaces = build_workspaces(settings)
        try:
            await prove(workspaces, scratch=cache_of(settings) / "proofs")
        finally:
            await workspaces.close()


def check_verifiers(names: Iterable[str], known: Collection[str]) -> None:
    """Refuse tasks whose verifier the run does not have.

    Raises:
        ConfigError: With the names that there are.
    """
    for name in names:
        if name not in known:
            raise ConfigError(
                f"tasks: no verifier {name!r}; there are {', '.join(sorted(known))}; list it in "
                "reward.verifiers, one of your own as FILE.py:FUNCTION"
            )


def check_policy_path(policy: PolicyConfig) -> str:
    """Return the folder or hub id of the policy.

    Raises:
        ConfigError: It is not set, or looks like a folder and is not one.
    """
    path = policy.path
    if path is None:
        raise ConfigError(
            "policy.path=null: name a Hugging Face folder or hub id; "
            "python -m launch.sft makes a new lightning model"
        )
    looks_local = path.startswith((".", "/", "~")) or path.count("/") != 1
    folder = Path(path).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ConfigError(f"policy.path={path}: the folder has no config.json")
        return str(folder)
    if looks_local or policy.backend == "lightning":
        raise ConfigError(
            f"policy.path={path}: no such folder; make one with python -m launch.sft "
            "(for the smoke run: experiment=smoke_cold_start), or name an existing one"
        )
    return path


def check_run_dir(run_dir: str, *, may_exist: bool) -> None:
    """Refuse a folder in which an earlier run left something.

    Raises:
        ConfigError: With the three ways on.
    """
    folder = Path(run_dir)
    if not may_exist and folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(
            f"run_dir={run_dir}: holds an earlier run; continue it with resume={run_dir}, "
            "choose another name=, or replace it with overwrite=true"
        )


def make_run_dir(run_dir: str, composed: str, *, keep: bool) -> Path:
    """Make the run's folder with its config.yaml, emptied first unless the run continues there."""
    folder = Path(run_dir)
    if folder.is_dir() and not keep:
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(composed, encoding="utf-8")
    return folder
