"""DeepSpeed's engine around a policy: how ranks meet, and what DeepSpeed is told to do."""

import importlib
import logging
import os
from datetime import timedelta
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from torch.optim import Optimizer

from cispo.config import Offload
from cispo.interface import meet_through
from cispo.learner.statistics import Statistics
from cispo.policy.base import Policy

_MAX_BUCKET = 500_000_000
"""Numbers that are reduced or gathered at a time, DeepSpeed's own value."""
_PATIENCE = timedelta(days=365)
"""Of one collective. Whoever asked the ranks decides when they hang (`learner.step_seconds`), and
finds out which; torch's own 10 or 30 minutes would end those that wait for a slow write."""


def join_process_group(*, rank: int, num_ranks: int, host: str, port: int) -> None:
    """Meet the other ranks; returns when all are there.

    Call it once in a process whose environment holds DS_ACCELERATOR where that is to be forced.
    """
    has_gpu = os.environ.get("DS_ACCELERATOR") != "cpu" and torch.cuda.is_available()
    local_rank = 0 if has_gpu else rank  # Ray shows a rank its own device only
    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE=str(num_ranks),
        LOCAL_RANK=str(local_rank),
        LOCAL_SIZE=str(num_ranks),
        MASTER_ADDR=host,
        MASTER_PORT=str(port),
    )
    meet_through(host)
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # On CPU DeepSpeed would compile a shared-memory extension here, for minutes, for nothing.
    vars(importlib.import_module("deepspeed.comm.torch"))["build_shm_op"] = lambda: None
    # Groups that DeepSpeed makes later do not inherit the timeout of the first one.
    defaults = vars(importlib.import_module("torch.distributed.distributed_c10d"))
    defaults["default_pg_timeout"] = defaults["default_pg_nccl_timeout"] = _PATIENCE
    deepspeed.init_distributed(
        dist_backend="nccl" if has_gpu else "gloo",
        verbose=False,
        timeout=_PATIENCE,
    )


def start_engine(
    policy: Policy,
    optimizer: Optimizer,
    *,
    zero_stage: int,
    offload: Offload,
    max_grad_norm: float,
) -> tuple[Any, Any]:
    """Wrap a policy and its optimizer; returns DeepSpeed's engine and its optimizer.

    In a bfloat16 policy all weights become bfloat16, those that were float32 included; see
    `cispo.learner.float_weights`.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    engine, wrapped, _, _ = deepspeed.initialize(
        model=policy.eval(),  # dropout would make pi another policy than mu
        optimizer=optimizer,
        dist_init_required=False,
        config=_engine_config(
            zero_stage=zero_stage,
            offload=offload,
            is_bfloat16=any(p.dtype == torch.bfloat16 for p in parameters),
            max_grad_norm=max_grad_norm,
            num_weights=sum(p.numel() for p in parameters),
        ),
    )
    return engine, wrapped


def set_max_grad_norm(engine: Any, optimizer: Any, max_grad_norm: float) -> None:
    """Set the norm above which the next step scales gradients down.

    Stage 0 reads the engine's configuration, the other stages a copy in their optimizer, which
    `load_checkpoint` overwrites.
    """
    engine._config.gradient_clipping = max_grad_norm
    if hasattr(optimizer, "clip_grad"):
        optimizer.clip_grad = max_grad_norm


def sum_over_ranks(statistics: Statistics, *, is_counted: bool) -> None:
    """Make the statistics of one rank those of all, in place.

    Args:
        statistics: What this rank measured.
        is_counted: Whether it counts; of ranks that share rows only one does.
    """
    if dist.get_world_size() == 1:
        return
    for sums in (
        statistics.sums,
        statistics.histogram,
        statistics.expert_counts,
        statistics.router_entropy,
    ):
        if not is_counted:
            sums.zero_()
        if sums.numel():
            dist.all_reduce(sums)
    dist.all_reduce(statistics.maxima, op=dist.ReduceOp.MAX)


def _engine_config(
    *,
    zero_stage: int,
    offload: Offload,
    is_bfloat16: bool,
    max_grad_norm: float,
    num_weights: int,
) -> dict[str, object]:
    # The buckets are allocated whole, however small the model.
    bucket = min(num_weights, _MAX_BUCKET)
    zero: dict[str, object] = {
        "stage": zero_stage,
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": bucket,
    }
    to_cpu = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    if offload != Offload.NONE:
        zero["offload_optimizer"] = to_cpu
    if offload == Offload.OPTIMIZER_AND_WEIGHTS:
        zero["offload_param"] = to_cpu
    config: dict[str, object] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,  # `DeepSpeedLearner.backward` sets the boundaries
        "gradient_clipping": max_grad_norm,
        "bf16": {"enabled": is_bfloat16},
        "zero_optimization": zero,
        # Torch's AdamW on offloaded weights; DeepSpeed's own is compiled at first use.
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**62,
    }
    if is_bfloat16:
        # In bfloat16 a sum of many micro-batches would lose the small ones.
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    return config
