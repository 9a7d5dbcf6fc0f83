"""Samples become micro-batches: sequences laid end to end in one row, up to a budget of tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cispo.types import UNROUTED, Rollout, Sample

MIXED_VERSIONS = -1
"""Stands for the policy version of a rollout that several versions sampled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A micro-batch of S sequences in one row of T tokens.

    Attributes:
        token_ids: [T] int64.
        cu_seqlens: [S+1] int32, where sequences begin and end.
        action_mask: [T] bool, True where the policy sampled the token.
        behaviour_logprobs: [T] float32, log mu in nats; 0 off the mask.
        advantages: [T] float32, one value a sequence; 0 off the mask.
        token_weights: [T] float32, share in the loss of the whole update; 0 off the mask.
        versions: [S] int64, the policy version that sampled the sequence, or `MIXED_VERSIONS`.
        task_ids: S task ids, to name the culprit of a non-finite number.
        routed_experts: [T, M] uint8, see `Rollout.routed_experts`; None where no rollout has any.
        anchor_logprobs: [T] float32, see `Sample.anchor_logprobs`; None where all are log mu.
    """

    token_ids: Tensor
    cu_seqlens: Tensor
    action_mask: Tensor
    behaviour_logprobs: Tensor
    advantages: Tensor
    token_weights: Tensor
    versions: Tensor
    task_ids: tuple[str, ...]
    routed_experts: Tensor | None = None
    anchor_logprobs: Tensor | None = None

    @property
    def anchor(self) -> Tensor:
        """[T] float32, the logarithm in nats of what the ratio divides by; 0 off the mask."""
        return self.behaviour_logprobs if self.anchor_logprobs is None else self.anchor_logprobs

    @property
    def num_tokens(self) -> int:
        """T, prompts included."""
        return self.token_ids.numel()

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device; itself where it already is there."""
        if self.token_ids.device == device:
            return self
        return Batch(
            token_ids=self.token_ids.to(device, non_blocking=True),
            cu_seqlens=self.cu_seqlens.to(device, non_blocking=True),
            action_mask=self.action_mask.to(device, non_blocking=True),
            behaviour_logprobs=self.behaviour_logprobs.to(device, non_blocking=True),
            advantages=self.advantages.to(device, non_blocking=True),
            token_weights=self.token_weights.to(device, non_blocking=True),
            versions=self.versions.to(device, non_blocking=True),
            task_ids=self.task_ids,
            routed_experts=(
                None
                if self.routed_experts is None
                else self.routed_experts.to(device, non_blocking=True)
            ),
            anchor_logprobs=(
                None
                if self.anchor_logprobs is None
                else self.anchor_logprobs.to(device, non_blocking=True)
            ),
        )


def pack(
    samples: Sequence[Sample],
    token_weights: Sequence[float],
    passes: Sequence[Sequence[Sequence[int]]],
    *,
    rank: int = 0,
) -> list[Batch]:
    """Lay out the micro-batches of one rank, one a pass.

    Where the rank has nothing left, the shortest sample stands in with token weights of zero: a
    pass is a collective, and a rank that skipped one would leave the others waiting.

    Args:
        samples: All samples of the update.
        token_weights: Weight of each action token of the sample; see `cispo.batch.token_weights`.
        passes: Positions of samples by pass and rank; see `cispo.batch.plan`.
        rank: Whose share is laid out.
    """
    shortest = min(samples, key=lambda sample: len(sample.rollout.token_ids))
    return [
        collate([samples[i] for i in part], [token_weights[i] for i in part])
        if part
        else collate([shortest], [0.0])
        for part in (ranks[rank] for ranks in passes)
    ]


def collate(samples: Sequence[Sample], token_weights: Sequence[float]) -> Batch:
    """Lay samples end to end."""
    rollouts = [sample.rollout for sample in samples]
    lengths = np.array([len(rollout.token_ids) for rollout in rollouts])
    mask = _joined([rollout.action_mask for rollout in rollouts], np.bool_)
    versions = [
        r.oldest_version if r.oldest_version == r.newest_version else MIXED_VERSIONS
        for r in rollouts
    ]

    def spread(values: Sequence[float]) -> Tensor:
        repeated = np.repeat(np.array(values, dtype=np.float32), lengths)
        return torch.from_numpy(np.where(mask, repeated, np.float32(0.0)))

    return Batch(
        token_ids=torch.from_numpy(_joined([r.token_ids for r in rollouts], np.int64)),
        cu_seqlens=torch.from_numpy(np.concatenate([[0], lengths.cumsum()]).astype(np.int32)),
        action_mask=torch.from_numpy(mask),
        behaviour_logprobs=torch.from_numpy(
            _joined([r.behaviour_logprobs for r in rollouts], np.float32)
        ),
        advantages=spread([sample.advantage for sample in samples]),
        token_weights=spread(token_weights),
        versions=torch.tensor(versions, dtype=torch.int64),
        task_ids=tuple(rollout.task_id for rollout in rollouts),
        routed_experts=_routed_experts(rollouts),
        anchor_logprobs=_anchor_logprobs(samples),
    )


def _anchor_logprobs(samples: Sequence[Sample]) -> Tensor | None:
    if all(sample.anchor_logprobs is None for sample in samples):
        return None
    anchors = [
        sample.rollout.behaviour_logprobs
        if sample.anchor_logprobs is None
        else sample.anchor_logprobs
        for sample in samples
    ]
    return torch.from_numpy(_joined(anchors, np.float32))


def _joined(parts: Sequence[Sequence[float]], dtype: npt.DTypeLike) -> npt.NDArray[np.generic]:
    return np.concatenate([np.asarray(part, dtype=dtype) for part in parts])


def _routed_experts(rollouts: Sequence[Rollout]) -> Tensor | None:
    """[T, M] of rollouts end to end; those that have none leave the choice to the learner.

    Raises:
        ValueError: They come from models of different depths.
    """
    widths = {rollout.num_routes for rollout in rollouts if rollout.routed_experts is not None}
    if not widths:
        return None
    if len(widths) > 1:
        raise ValueError(f"rollouts have {sorted(widths)} routed experts a token")
    (width,) = widths
    unknown = bytes([UNROUTED]) * width
    joined = b"".join(
        unknown * len(rollout.token_ids)
        if rollout.routed_experts is None
        else rollout.routed_experts
        for rollout in rollouts
    )
    return torch.frombuffer(bytearray(joined), dtype=torch.uint8).view(-1, width)
