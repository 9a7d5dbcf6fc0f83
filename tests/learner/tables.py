"""A policy whose gradient is known in closed form, samples for it, and learners around it."""

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from cispo.config import ObjectiveConfig
from cispo.learner.local import LocalLearner
from cispo.learner.rule import UpdateRule, update_rule
from cispo.policy.base import Policy, TokenScores
from cispo.types import PolicyVersion, Rollout, Sample, StopReason
from cispo.weights.buckets import WeightBucket

VOCABULARY = 6
COEFFICIENT = 0.5

Floats = npt.NDArray[np.float64]


class TablePolicy(Policy):
    """A table of logits by previous token; the balance loss is their mean square."""

    aux_loss_coef = 0.0

    def __init__(self, *, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.table = nn.Parameter(torch.randn(VOCABULARY, VOCABULARY, generator=generator))

    def forward(
        self,
        token_ids: Tensor,
        cu_seqlens: Tensor,
        action_mask: Tensor,
        *,
        temperature: float = 1.0,
        routed_experts: Tensor | None = None,
    ) -> TokenScores:
        logits = self.table[token_ids.roll(1)].float() / temperature
        log_p = logits.log_softmax(-1)
        logprobs = log_p.gather(1, token_ids[:, None])[:, 0]
        entropy = -(log_p.exp() * log_p).sum(-1).detach()
        aux_loss = self.table.float().square().mean()
        return TokenScores(
            torch.where(action_mask, logprobs, 0.0),
            torch.where(action_mask, entropy, 0.0),
            aux_loss,
        )


def make_sample(
    tokens: Sequence[int],
    mask: Sequence[int],
    behaviour: Sequence[float],
    *,
    advantage: float,
    group: int = 0,
    version: int = 1,
) -> Sample:
    return Sample(
        rollout=Rollout(
            task_id=f"task-{group}",
            token_ids=tokens,
            action_mask=[bool(m) for m in mask],
            behaviour_logprobs=behaviour,
            text="",
            stop_reason=StopReason.END_OF_TURN,
            oldest_version=PolicyVersion(version),
            newest_version=PolicyVersion(version),
        ),
        advantage=advantage,
        group_index=group,
    )


def random_samples(count: int, *, seed: int = 0, vocabulary: int = VOCABULARY) -> list[Sample]:
    """Ragged samples of three groups, with ratios that spread about one."""
    draw = random.Random(seed)
    made = []
    for index in range(count):
        prompt, answer = draw.randint(1, 4), draw.randint(1, 9)
        behaviour = [draw.uniform(-3.5, -0.5) for _ in range(answer)]
        made.append(
            make_sample(
                [draw.randrange(vocabulary) for _ in range(prompt + answer)],
                [0] * prompt + [1] * answer,
                [0.0] * prompt + behaviour,
                advantage=draw.gauss(0, 1),
                group=index % 3,
            )
        )
    return made


def reference_gradient(
    table: Tensor, samples: Iterable[Sample], *, ratio_max: float, temperature: float = 1.0
) -> Floats:
    """Gradient of minus J_CISPO (eq. 4) by the table, in float64, token by token.

    d log softmax(row)[token] / d row = onehot(token) - softmax(row), over the temperature.
    """
    samples = list(samples)
    logits = table.detach().double().numpy() / temperature
    group_tokens: dict[int, int] = {}
    for sample in samples:
        count = sum(sample.rollout.action_mask)
        group_tokens[sample.group_index] = group_tokens.get(sample.group_index, 0) + count
    gradient = np.zeros_like(logits)
    for sample in samples:
        tokens = sample.rollout.token_ids
        share = 1.0 / (len(group_tokens) * group_tokens[sample.group_index])
        for t, is_action in enumerate(sample.rollout.action_mask):
            if is_action:
                row = logits[tokens[t - 1]]
                p = np.exp(row - row.max())
                p /= p.sum()
                mu = float(np.exp(np.float32(sample.rollout.behaviour_logprobs[t])))
                weight = min(p[tokens[t]] / mu, ratio_max)
                step = -p
                step[tokens[t]] += 1.0
                gradient[tokens[t - 1]] -= share * weight * sample.advantage * step / temperature
    return gradient


LINEAR: Mapping[str, Any] = {
    # With eps far above the gradient AdamW's first step is -lr * g / (|g| + eps), here -g to six
    # digits, so that a step shows the gradient itself.
    "lr": 1e8,
    "beta1": 0.9,
    "beta2": 0.95,
    "eps": 1e8,
    "weight_decay": 0.0,
    "warmup_steps": 0,
    "max_grad_norm": 1e9,
}
ADAMW: Mapping[str, Any] = {**LINEAR, "lr": 1e-2, "eps": 1e-15, "max_grad_norm": 1.0}


def make_rule(
    *,
    micro_batch_tokens: int = 1000,
    temperature: float = 1.0,
    ratio_max: float = 2.0,
    coefficient: float = 0.0,
    **objective: Any,
) -> UpdateRule:
    return update_rule(
        ObjectiveConfig(ratio_max=ratio_max, **objective),
        micro_batch_tokens=micro_batch_tokens,
        temperature=temperature,
        router_aux_loss_coef=coefficient,
    )


def local_learner(policy: Policy, rule: UpdateRule | None = None, **optimizer: Any) -> LocalLearner:
    return LocalLearner(policy, rule or make_rule(), **{**ADAMW, **optimizer})


def with_behaviour(sample: Sample, value: float) -> Sample:
    """The same sample with one behaviour log-probability at every token."""
    rollout = sample.rollout
    return make_sample(
        rollout.token_ids,
        rollout.action_mask,
        [value] * len(rollout.token_ids),
        advantage=sample.advantage,
        group=sample.group_index,
    )


def tensors(buckets: Iterable[WeightBucket]) -> dict[str, Tensor]:
    """The weights of an export by name."""
    return {name: tensor.clone() for bucket in buckets for name, tensor in bucket.tensors()}
