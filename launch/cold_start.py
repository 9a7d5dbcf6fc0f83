"""One supervised cold start from its configuration to a saved policy."""

from dataclasses import replace

import torch

from cispo.config import SftConfig
from cispo.data.build import training_tasks
from cispo.policy.base import Policy
from cispo.policy.load import (
    bundled_tokenizer,
    load_policy,
    load_tokenizer,
    new_lightning_policy,
    save_policy,
)
from cispo.sft import demonstrations, imitate
from cispo.tracking.console import open_console
from cispo.tracking.fanout import Fanout
from cispo.tracking.jsonl import JsonlTracker
from cispo.types import Metrics
from launch.preflight import check_policy_path, check_run_dir, make_run_dir

PHASE = "imitate"


def run_cold_start(cfg: SftConfig, composed: str) -> None:
    """Train a new or an existing policy on worked solutions and save it to `run_dir/policy`.

    Raises:
        CispoError: The configuration is refused, or the loss is not finite.
    """
    torch.set_num_threads(1)
    if cfg.policy.path is not None:
        check_policy_path(cfg.policy)
    check_run_dir(cfg.run_dir, may_exist=cfg.overwrite)
    # It has one phase, in which all sources have the share that they say themselves.
    tasks = training_tasks(replace(cfg.tasks, curriculum={}), seed=cfg.seed)
    folder = make_run_dir(cfg.run_dir, composed, keep=False)
    policy, tokenizer_path = _policy(cfg)
    tokenizer = load_tokenizer(tokenizer_path)
    with open_console(name=cfg.name, iterations=cfg.steps) as console:
        tracker = Fanout([JsonlTracker(folder / "metrics.jsonl")])
        console.progress.start(PHASE, cfg.steps)

        def log(step: int, metrics: Metrics) -> None:
            tracker.log(step, metrics)
            console.progress.advance(PHASE)
            console.progress.waiting(PHASE, f"loss {metrics['sft/loss_nats']:.3f} nats")

        imitate(
            policy,
            demonstrations(
                tasks,
                tokenizer,
                worked_fraction=cfg.worked_fraction,
                num_worked_first=cfg.worked_steps * cfg.batch_tasks,
                seed=cfg.seed,
            ),
            steps=cfg.steps,
            batch_tasks=cfg.batch_tasks,
            micro_batch_tokens=cfg.micro_batch_tokens,
            settings=cfg.optimizer,
            log=log,
        )
        console.progress.finish(PHASE)
        tracker.finish({})
    save_policy(policy, tokenizer, folder / "policy")
    print(f"cold start saved: {folder / 'policy'}")


def _policy(cfg: SftConfig) -> tuple[Policy, str]:
    """A policy to train, and where its tokenizer is."""
    policy = cfg.policy
    dtype = getattr(torch, policy.dtype)
    if policy.path is not None:
        loaded = load_policy(
            policy.path,
            backend=policy.backend,
            dtype=dtype,
            logprob_chunk=policy.logprob_chunk,
            kernels=policy.kernels,
        )
        return loaded, policy.path
    new = new_lightning_policy(
        policy.architecture,
        policy.tokenizer,
        seed=cfg.seed,
        dtype=dtype,
        logprob_chunk=policy.logprob_chunk,
        kernels=policy.kernels,
    )
    return new, str(bundled_tokenizer(policy.tokenizer))
