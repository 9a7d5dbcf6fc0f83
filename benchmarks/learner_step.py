"""Our learner as a contestant: `LocalLearner` on a batch that lies in a file."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.learner_cases import read_samples
from benchmarks.memory_peak import peak_bytes, reset_peak, resident_bytes
from benchmarks.turns import answer, wait_for_turn
from cispo.config import ObjectiveConfig, TokenWeighting
from cispo.learner.local import LocalLearner
from cispo.learner.rule import update_rule
from cispo.policy.hf import TransformersPolicy
from cispo.policy.lightning.model import LightningModel
from cispo.policy.load import load_policy


def run(problem: dict[str, Any]) -> None:
    """Take one optimizer step each turn.

    Args:
        problem: `model` (folder), `backend`, `kernels`, `batch` (file), `micro_batch_tokens`,
            `logprob_chunk`, `recompute`, `lr`, `threads`.
    """
    torch.set_num_threads(problem["threads"])
    policy = load_policy(
        problem["model"],
        backend=problem["backend"],
        dtype=torch.float32,
        logprob_chunk=problem["logprob_chunk"],
        kernels=problem["kernels"],
    )
    if isinstance(policy, LightningModel):
        policy.model.recompute_layers = problem["recompute"]
    elif problem["recompute"]:
        assert isinstance(policy, TransformersPolicy)
        policy.recompute_layers()
    rule = update_rule(
        ObjectiveConfig(ratio_max=5.0, token_weighting=TokenWeighting.TOKEN),
        micro_batch_tokens=problem["micro_batch_tokens"],
        temperature=1.0,
        router_aux_loss_coef=0.0,
    )
    learner = LocalLearner(
        policy, rule, lr=problem["lr"], beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0,
        warmup_steps=0, max_grad_norm=1.0,
    )  # fmt: skip
    samples = read_samples(Path(problem["batch"]))
    before = resident_bytes()
    reset_peak()
    answer({"resident_bytes": before})
    while True:
        wait_for_turn()
        wall, processor = time.perf_counter(), time.process_time()
        metrics = learner.step(samples)
        answer(
            {
                "seconds": time.perf_counter() - wall,
                "processor_seconds": time.process_time() - processor,
                "loss": metrics["learn/loss"],
                "grad_norm": metrics["learn/grad_norm"],
                "capped_fraction": metrics["weight/capped_fraction"],
                "entropy": metrics["entropy/mean_nats"],
                "peak_bytes": peak_bytes(),
            }
        )


if __name__ == "__main__":
    run(json.loads(sys.argv[1]))
