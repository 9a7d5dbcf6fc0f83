"""The reference learner: one process, plain torch, float32."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from cispo.batch.packing import Batch
from cispo.config import Decay
from cispo.counter_measures import NO_MEASURES, CounterMeasures
from cispo.errors import CheckpointError, ConfigError, DivergedError
from cispo.learner.accumulate import accumulate
from cispo.learner.optim import Schedule, adamw, set_learning_rate
from cispo.learner.rule import UpdateRule, micro_batches
from cispo.learner.saved import read_note, write_note
from cispo.learner.scoring import score
from cispo.learner.shards import LOCAL_FILE, ORDER
from cispo.learner.statistics import metrics
from cispo.learner.torch_files import write_file
from cispo.learner.universal import converted, load_by_parameter
from cispo.policy.base import Policy, TokenScores
from cispo.types import Metrics, Sample
from cispo.weights.buckets import (
    Allocate,
    WeightBucket,
    exported_tensors,
    fresh_buffer,
    to_buckets,
)

_SHAPE = {"backend": "local", "dtype": "float32"}


class LocalLearner:
    """Takes optimizer steps on a policy in this process.

    Args:
        policy: The policy pi; float32.
        rule: How samples become a gradient.
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
        ConfigError: The policy is not float32: AdamW on bfloat16 weights loses most of its updates.
    """

    def __init__(
        self,
        policy: Policy,
        rule: UpdateRule,
        *,
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
        self._parameters = [p for p in policy.parameters() if p.requires_grad]
        if any(p.dtype != torch.float32 for p in self._parameters):
            raise ConfigError(
                "policy.dtype=bfloat16: learner.backend=local trains float32 only; "
                "set policy.dtype=float32 or learner.backend=deepspeed"
            )
        self._device = self._parameters[0].device
        self._policy = policy.eval()  # dropout would make pi another policy than mu
        self._rule = rule
        self._schedule = Schedule(
            lr=lr,
            warmup_steps=warmup_steps,
            decay=Decay(decay),
            decay_steps=decay_steps,
            final_lr_fraction=final_lr_fraction,
        )
        self._max_grad_norm = max_grad_norm
        self._optimizer = adamw(
            self._parameters,
            lr=lr,
            beta1=beta1,
            beta2=beta2,
            eps=eps,
            weight_decay=weight_decay,
        )
        self._num_steps = 0
        self._fresh_version: int | None = None

    def step(self, samples: Sequence[Sample], measures: CounterMeasures = NO_MEASURES) -> Metrics:
        """Take one optimizer step; see `cispo.ports.Learner`.

        Args:
            samples: All samples of the update.
            measures: What takes the place of the configured settings, in this update alone.
        """
        rule = self._rule.under(measures)
        max_grad_norm = measures.max_grad_norm or self._max_grad_norm
        batches, filling = micro_batches(samples, rule=rule, pads_rows=self._policy.pads_rows)
        self._optimizer.zero_grad(set_to_none=True)
        statistics, fault = accumulate(
            [batch.to(self._device) for batch in batches],
            self,
            rule=rule,
            num_tokens=sum(batch.num_tokens for batch in batches),
            fresh_version=self._fresh_version,
        )
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        norm = get_total_norm(gradients)
        if fault is None and not bool(norm.isfinite()):
            fault = f"the gradient's norm is {norm.item()}"
        if fault is not None:
            self._optimizer.zero_grad(set_to_none=True)
            raise DivergedError(f"optimizer step {self._num_steps} was not taken: {fault}")
        clip_grads_with_norm_(self._parameters, max_grad_norm, norm)
        lr = self._schedule.at(self._num_steps)
        set_learning_rate(self._optimizer, lr)
        self._optimizer.step()
        self._num_steps += 1
        self._fresh_version = None
        return {
            **metrics(statistics),
            **filling,
            "learn/grad_norm": norm.item(),
            "learn/grad_norm/max": norm.item(),
            "learn/clipped_fraction": float(norm.item() > max_grad_norm),
            "learn/lr": lr,
        }

    def logprobs(self, samples: Sequence[Sample]) -> dict[int, npt.NDArray[np.float32]]:
        """Score `samples`, by position; see `cispo.anchor.Scorer`."""
        return score(
            samples,
            self,
            rule=self._rule,
            device=self._device,
            pads_rows=self._policy.pads_rows,
        )

    def buckets(
        self, *, version: int, max_bytes: int, allocate: Allocate = fresh_buffer
    ) -> Iterator[WeightBucket]:
        """Export the weights as policy version `version`."""
        self._fresh_version = version
        tensors = exported_tensors(self._policy)
        yield from to_buckets(tensors, max_bytes=max_bytes, allocate=allocate)

    def save(self, folder: Path) -> None:
        """Write weights and optimizer; see `cispo.ports.Learner`."""
        state = {
            "policy": self._policy.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            ORDER: [name for name, _ in self._trained()],
        }
        fault = write_file(state, folder / LOCAL_FILE)
        fault = fault or write_note(folder, num_steps=self._num_steps, **_SHAPE)
        if fault is not None:
            raise CheckpointError(fault)

    def restore(self, folder: Path) -> None:
        """Read what `save` wrote.

        Raises:
            CheckpointError: It was saved by another kind of learner, and was not converted.
        """
        note = read_note(folder, **_SHAPE)
        if note.shape == _SHAPE:
            state = torch.load(folder / LOCAL_FILE, map_location=self._device, weights_only=True)
            self._policy.load_state_dict(state["policy"])
            self._optimizer.load_state_dict(state["optimizer"])
        else:
            load_by_parameter(converted(folder, note), self._trained(), self._optimizer)
        self._num_steps = note.num_steps
        self._fresh_version = None

    def _trained(self) -> list[tuple[str, nn.Parameter]]:
        return [(name, p) for name, p in self._policy.named_parameters() if p.requires_grad]

    def forward(self, batch: Batch, *, temperature: float) -> TokenScores:
        """Score one micro-batch; see `cispo.learner.accumulate.Passes`."""
        scores: TokenScores = self._policy(
            batch.token_ids,
            batch.cu_seqlens,
            batch.action_mask,
            temperature=temperature,
            routed_experts=batch.routed_experts,
        )
        return scores

    def backward(self, loss: Tensor, *, is_last: bool) -> None:
        """Add the loss's gradient to `.grad`."""
        loss.backward()  # type: ignore[no-untyped-call]

    def agree(self, fault: str | None) -> str | None:
        """One process agrees with itself."""
        return fault
