"""The data-parallel learner on DeepSpeed: ZeRO stages 0 to 3, gloo or NCCL, float32 or bfloat16."""

import importlib
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import deepspeed
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.utils import get_total_norm

from cispo.batch.packing import Batch
from cispo.errors import CheckpointError, ConfigError, DivergedError
from cispo.learner.accumulate import accumulate
from cispo.learner.optim import adamw, learning_rate, set_learning_rate
from cispo.learner.rule import UpdateRule, micro_batches
from cispo.learner.saved import read_note, write_note
from cispo.learner.statistics import Statistics, metrics
from cispo.policy.base import Policy, TokenScores
from cispo.types import Metrics, Sample
from cispo.weights.buckets import (
    Allocate,
    Packed,
    WeightBucket,
    exported_tensors,
    fresh_buffer,
    pack,
    plan_buckets,
)

_TAG = "deepspeed"


def join_process_group(*, rank: int, num_ranks: int, host: str, port: int) -> None:
    """Meet the other ranks; returns when all are there.

    Call it once in a process whose environment holds DS_ACCELERATOR where that is to be forced.
    """
    local_rank = 0 if torch.cuda.is_available() else rank  # Ray shows a rank its own device only
    os.environ.update(
        RANK=str(rank),
        WORLD_SIZE=str(num_ranks),
        LOCAL_RANK=str(local_rank),
        LOCAL_SIZE=str(num_ranks),
        MASTER_ADDR=host,
        MASTER_PORT=str(port),
    )
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # On CPU DeepSpeed would compile a shared-memory extension here, for minutes, for nothing.
    vars(importlib.import_module("deepspeed.comm.torch"))["build_shm_op"] = lambda: None
    deepspeed.init_distributed(
        dist_backend="nccl" if torch.cuda.is_available() else "gloo", verbose=False
    )


class DeepSpeedLearner:
    """One rank of a data-parallel learner; every method is called on all ranks alike.

    Args:
        policy: The policy pi, the same on all ranks.
        rule: How samples become a gradient.
        zero_stage: ZeRO stage, 0..3.
        lr: Learning rate after warm-up.
        beta1: Decay of AdamW's first moment.
        beta2: Decay of its second moment.
        eps: Its epsilon.
        weight_decay: Its decoupled weight decay.
        warmup_steps: Optimizer steps of linear warm-up.
        max_grad_norm: Gradients above this global norm are scaled down.

    Raises:
        ConfigError: bfloat16 at stage 0, where DeepSpeed takes a hidden first step without gradient
            that shifts AdamW's bias correction.
    """

    def __init__(
        self,
        policy: Policy,
        rule: UpdateRule,
        *,
        zero_stage: int,
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
        warmup_steps: int,
        max_grad_norm: float,
    ) -> None:
        parameters = [p for p in policy.parameters() if p.requires_grad]
        self._dtype = parameters[0].dtype
        if self._dtype == torch.bfloat16 and zero_stage == 0:
            raise ConfigError("learner.zero_stage=0: bfloat16 needs stage 1, 2 or 3")
        self._rank = dist.get_rank()
        self._num_ranks = dist.get_world_size()
        self._zero_stage = zero_stage
        self._rule = rule
        self._lr = lr
        self._warmup_steps = warmup_steps
        self._engine, self._optimizer, _, _ = deepspeed.initialize(
            model=policy.eval(),  # dropout would make pi another policy than mu
            optimizer=adamw(
                parameters,
                lr=lr,
                beta1=beta1,
                beta2=beta2,
                eps=eps,
                weight_decay=weight_decay,
            ),
            dist_init_required=False,
            config=_engine_config(
                zero_stage=zero_stage,
                is_bfloat16=self._dtype == torch.bfloat16,
                max_grad_norm=max_grad_norm,
                num_weights=sum(p.numel() for p in parameters),
            ),
        )
        self._num_steps = 0
        self._fresh_version: int | None = None

    def step(self, samples: Sequence[Sample]) -> Metrics:
        """Take one optimizer step on this rank's share of `samples`; see `cispo.ports.Learner`.

        Args:
            samples: All samples of the update, the same on all ranks.
        """
        batches, filling = micro_batches(
            samples,
            rule=self._rule,
            rank=self._rank,
            num_ranks=self._num_ranks,
            pads_rows=self._engine.module.pads_rows,
        )
        device = self._engine.device
        lr = learning_rate(self._num_steps, lr=self._lr, warmup_steps=self._warmup_steps)
        set_learning_rate(self._optimizer, lr)
        statistics, fault = accumulate(
            [batch.to(device) for batch in batches],
            self,
            rule=self._rule,
            num_tokens=sum(len(sample.rollout.token_ids) for sample in samples),
            fresh_version=self._fresh_version,
        )
        norm = self._take_step()
        if fault is None and norm is None:
            fault = "the gradient's norm is not finite"
        if fault is not None:
            raise DivergedError(f"optimizer step {self._num_steps} was not taken: {fault}")
        assert norm is not None
        self._num_steps += 1
        self._fresh_version = None
        self._sum_over_ranks(statistics)
        return {
            **metrics(statistics),
            **filling,
            "learn/grad_norm": norm,
            "learn/lr": lr,
        }

    def buckets(
        self, *, version: int, max_bytes: int, allocate: Allocate = fresh_buffer
    ) -> Iterator[WeightBucket]:
        """Export the weights as policy version `version`.

        Under ZeRO 3 the weights of one bucket at a time are gathered, on all ranks; only rank 0
        yields, but all must exhaust the iterator.
        """
        self._fresh_version = version
        parameters = exported_tensors(self._engine.module)
        is_partitioned = self._zero_stage == 3
        sizes = {
            name: (p.ds_numel if is_partitioned else p.numel()) * p.element_size()  # type: ignore[attr-defined]
            for name, p in parameters.items()
        }
        plan = plan_buckets(sizes, max_bytes=max_bytes)
        for index, names in enumerate(plan):
            tensors = {name: parameters[name] for name in names}
            packed: Packed | None = None
            with deepspeed.zero.GatheredParameters(list(tensors.values()), enabled=is_partitioned):
                if self._rank == 0:
                    packed = pack(tensors, allocate=allocate)
            if packed is not None:
                yield packed.seal(index=index, total=len(plan))

    def save(self, folder: Path) -> None:
        """Write weights and optimizer; see `cispo.ports.Learner`."""
        self._engine.save_checkpoint(str(folder), tag=_TAG, save_latest=False)
        if self._rank == 0:
            write_note(folder, num_steps=self._num_steps, **self._shape())
        dist.barrier()

    def restore(self, folder: Path) -> None:
        """Read what `save` wrote.

        Raises:
            CheckpointError: It is incomplete, or comes from another backend, dtype, ZeRO stage or
                number of ranks.
        """
        num_steps = read_note(folder, **self._shape())
        loaded, _ = self._engine.load_checkpoint(str(folder), tag=_TAG)
        if loaded is None:
            raise CheckpointError(f"{folder / _TAG} is incomplete")
        self._num_steps = num_steps
        self._fresh_version = None

    def forward(self, batch: Batch, *, temperature: float) -> TokenScores:
        """Score one micro-batch; see `cispo.learner.accumulate.Passes`."""
        scores: TokenScores = self._engine(
            batch.token_ids,
            batch.cu_seqlens,
            batch.action_mask,
            temperature=temperature,
            routed_experts=batch.routed_experts,
        )
        return scores

    def backward(self, loss: Tensor, *, is_last: bool) -> None:
        """Add the loss's gradient to the engine's, and on the last pass reduce it over ranks."""
        self._engine.set_gradient_accumulation_boundary(is_last)
        # DeepSpeed averages over ranks; token weights sum to one over all ranks, so undo it.
        loss = loss * self._num_ranks
        self._engine.backward(loss, scale_wrt_gas=False)

    def agree(self, fault: str | None) -> str | None:
        """The fault of the lowest rank that has one; costs one reduced number when none has."""
        flag = torch.tensor([float(fault is not None)], device=self._engine.device)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        if not flag.item():
            return None
        faults: list[str | None] = [None] * self._num_ranks
        dist.all_gather_object(faults, fault)
        return next(text for text in faults if text is not None)

    def _take_step(self) -> float | None:
        """Step the optimizer and return the gradient's norm before clipping; None if not finite.

        ZeRO computes the norm over its partitions and skips a step whose norm is not finite. At
        stage 0 DeepSpeed does neither: it clips, and reports no norm.
        """
        if self._zero_stage == 0:
            gradients = [p.grad for p in self._engine.module.parameters() if p.grad is not None]
            norm = get_total_norm(gradients)
            if not bool(norm.isfinite()):
                self._engine.zero_grad()
                return None
            self._engine.step()
            return norm.item()
        self._engine.step()
        return (
            float(self._engine.get_global_grad_norm()) if self._engine.was_step_applied() else None
        )

    def _sum_over_ranks(self, statistics: Statistics) -> None:
        if self._num_ranks > 1:
            dist.all_reduce(statistics.sums)
            dist.all_reduce(statistics.histogram)
            if statistics.expert_counts.numel():
                dist.all_reduce(statistics.expert_counts)
                dist.all_reduce(statistics.router_entropy)
            dist.all_reduce(statistics.maxima, op=dist.ReduceOp.MAX)

    def _shape(self) -> dict[str, str | int]:
        return {
            "backend": "deepspeed",
            "dtype": str(self._dtype).removeprefix("torch."),
            "zero_stage": self._zero_stage,
            "num_ranks": self._num_ranks,
        }


def _engine_config(
    *, zero_stage: int, is_bfloat16: bool, max_grad_norm: float, num_weights: int
) -> dict[str, object]:
    # DeepSpeed's default buckets are larger than a small model, and are allocated whole.
    bucket = min(num_weights, 500_000_000)
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,  # `backward` sets the boundaries by hand
        "gradient_clipping": max_grad_norm,
        "bf16": {"enabled": is_bfloat16},
        "zero_optimization": {
            "stage": zero_stage,
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
        },
        "steps_per_print": 2**62,
    }
