"""The parallel learner on DeepSpeed: ZeRO stages 0 to 3, gloo or NCCL, float32 or bfloat16."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import deepspeed
import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from cispo.batch.packing import Batch
from cispo.config import Decay, Offload
from cispo.counter_measures import NO_MEASURES, CounterMeasures
from cispo.errors import CheckpointError, ConfigError, DivergedError
from cispo.learner.accumulate import accumulate
from cispo.learner.deepspeed_files import Writer, load_converted
from cispo.learner.engine import set_max_grad_norm, start_engine, sum_over_ranks
from cispo.learner.float_weights import FloatWeights
from cispo.learner.optim import Schedule, adamw, set_learning_rate
from cispo.learner.rule import UpdateRule, micro_batches
from cispo.learner.saved import read_note, write_note
from cispo.learner.scoring import score
from cispo.learner.shards import DEEPSPEED_TAG, ORDER
from cispo.learner.statistics import metrics
from cispo.learner.universal import converted
from cispo.policy.base import Policy, TokenScores
from cispo.policy.ranks import neighbouring_ranks
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


class DeepSpeedLearner:
    """One rank of a parallel learner; every method is called on all ranks alike.

    Consecutive ranks may share rows, each with a piece. They then have the same micro-batches, find
    the same loss and measure the same; the gradient of each is a part, and all parts are summed.

    Args:
        policy: The policy pi, the same on all ranks.
        rule: How samples become a gradient.
        zero_stage: ZeRO stage, 0..3.
        sequence_parallel: Ranks that share a row, which divide all ranks; see `Policy.share_rows`.
        offload: What rests in the CPU's memory; the optimizer needs stage >= 1, weights stage 3.
        lr: Learning rate after warm-up.
        beta1: Decay of AdamW's first moment.
        beta2: Decay of its second moment.
        eps: Its epsilon.
        weight_decay: Its decoupled weight decay.
        warmup_steps: Optimizer steps of linear warm-up.
        decay: How the rate falls after that; see `Schedule` for this and the next two.
        decay_steps: Optimizer steps in which it falls.
        final_lr_fraction: What is left of it in the end.
        max_grad_norm: Gradients above this global norm are scaled down.

    Raises:
        ConfigError: bfloat16 at stage 0, where DeepSpeed takes a hidden first step without gradient
            that shifts AdamW's bias correction; or the policy cannot be shared by so many ranks.
    """

    def __init__(
        self,
        policy: Policy,
        rule: UpdateRule,
        *,
        zero_stage: int,
        sequence_parallel: int = 1,
        offload: Offload = Offload.NONE,
        lr: float,
        beta1: float,
        beta2: float,
        eps: float,
        weight_decay: float,
        warmup_steps: int,
        max_grad_norm: float,
        decay: str = Decay.CONSTANT,
        decay_steps: int = 0,
        final_lr_fraction: float = 0.0,
    ) -> None:
        parameters = [p for p in policy.parameters() if p.requires_grad]
        self._dtype = parameters[0].dtype
        if self._dtype == torch.bfloat16 and zero_stage == 0:
            raise ConfigError("learner.zero_stage=0: bfloat16 needs stage 1, 2 or 3")
        self._rank = dist.get_rank()
        self._num_ranks = dist.get_world_size()
        self._sequence_parallel = sequence_parallel
        if sequence_parallel > 1:
            policy.share_rows(neighbouring_ranks(sequence_parallel))
        self._zero_stage = zero_stage
        self._rule = rule
        self._max_grad_norm = max_grad_norm
        self._schedule = Schedule(
            lr=lr,
            warmup_steps=warmup_steps,
            decay=Decay(decay),
            decay_steps=decay_steps,
            final_lr_fraction=final_lr_fraction,
        )
        self._float_weights = FloatWeights(policy)
        optimizer = adamw(
            parameters, lr=lr, beta1=beta1, beta2=beta2, eps=eps, weight_decay=weight_decay
        )
        self._engine, self._optimizer = start_engine(
            policy,
            optimizer,
            zero_stage=zero_stage,
            offload=offload,
            max_grad_norm=max_grad_norm,
        )
        self._float_weights.adopt()
        self._writer = Writer()
        self._engine.checkpoint_engine = self._writer
        # Scripts beside a checkpoint, which is read without them, and one more write that may fail.
        self._engine._copy_recovery_script = lambda _: None
        self._num_steps = 0
        self._fresh_version: int | None = None

    def step(self, samples: Sequence[Sample], measures: CounterMeasures = NO_MEASURES) -> Metrics:
        """Take one optimizer step on this rank's share of `samples`; see `cispo.ports.Learner`.

        Args:
            samples: All samples of the update, the same on all ranks.
            measures: What takes the place of the configured settings, in this update alone.
        """
        rule = self._rule.under(measures)
        max_grad_norm = measures.max_grad_norm or self._max_grad_norm
        set_max_grad_norm(self._engine, self._optimizer, max_grad_norm)
        batches, filling = micro_batches(
            samples,
            rule=rule,
            rank=self._rank // self._sequence_parallel,
            num_ranks=self._num_ranks // self._sequence_parallel,
            pads_rows=self._engine.module.pads_rows,
        )
        lr = self._schedule.at(self._num_steps)
        set_learning_rate(self._optimizer, lr)
        statistics, fault = accumulate(
            [batch.to(self._engine.device) for batch in batches],
            self,
            rule=rule,
            num_tokens=sum(len(sample.rollout.token_ids) for sample in samples),
            fresh_version=self._fresh_version,
        )
        norm = self._take_step()
        if fault is None and norm is None:
            fault = "the gradient's norm is not finite"
        if fault is not None:
            raise DivergedError(f"optimizer step {self._num_steps} was not taken: {fault}")
        assert norm is not None
        self._float_weights.refresh()
        self._num_steps += 1
        self._fresh_version = None
        sum_over_ranks(statistics, is_counted=self._rank % self._sequence_parallel == 0)
        return {
            **metrics(statistics),
            **filling,
            "learn/grad_norm": norm,
            "learn/grad_norm/max": norm,
            "learn/clipped_fraction": float(norm > max_grad_norm),
            "learn/lr": lr,
        }

    def logprobs(self, samples: Sequence[Sample]) -> dict[int, npt.NDArray[np.float32]]:
        """Score this rank's share of `samples`, by position; see `cispo.anchor.Scorer`."""
        return score(
            samples,
            self,
            rule=self._rule,
            device=self._engine.device,
            rank=self._rank // self._sequence_parallel,
            num_ranks=self._num_ranks // self._sequence_parallel,
            pads_rows=self._engine.module.pads_rows,
        )

    def buckets(
        self, *, version: int, max_bytes: int, allocate: Allocate = fresh_buffer
    ) -> Iterator[WeightBucket]:
        """Export the weights as policy version `version`.

        Under ZeRO 3 the weights of one bucket at a time are gathered, on all ranks; only rank 0
        yields, but all must exhaust the iterator.
        """
        self._fresh_version = version
        parameters = exported_tensors(self._engine.module) | self._float_weights.by_name()
        is_partitioned = self._zero_stage == 3
        sizes = {
            name: getattr(p, "ds_numel", p.numel()) * p.element_size()
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
        self._writer.begin()
        names = {ORDER: [name for name, _ in self._trained()]}
        self._engine.save_checkpoint(
            str(folder), DEEPSPEED_TAG, client_state=names, save_latest=False
        )
        fault = self._writer.fault
        if fault is None and self._rank == 0:
            fault = write_note(folder, num_steps=self._num_steps, **self._shape())
        if (fault := self.agree(fault)) is not None:
            raise CheckpointError(fault)

    def restore(self, folder: Path) -> None:
        """Read what `save` wrote.

        Raises:
            CheckpointError: It is incomplete, or of another dtype; or it comes from another
                backend, ZeRO stage or number of ranks and was not converted.
        """
        note = read_note(folder, **self._shape())
        if note.shape == self._shape():
            loaded, _ = self._engine.load_checkpoint(str(folder), tag=DEEPSPEED_TAG)
            if loaded is None:
                raise CheckpointError(f"{folder / DEEPSPEED_TAG} is incomplete")
        else:
            load_converted(
                converted(folder, note), self._optimizer, self._trained(), stage=self._zero_stage
            )
        self._float_weights.refresh()
        self._num_steps = note.num_steps
        self._fresh_version = None

    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, p) for name, p in self._engine.module.named_parameters() if p.requires_grad]

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

    def _shape(self) -> dict[str, str | int]:
        return {
            "backend": "deepspeed",
            "dtype": str(self._dtype).removeprefix("torch."),
            "zero_stage": self._zero_stage,
            "num_ranks": self._num_ranks,
        }
