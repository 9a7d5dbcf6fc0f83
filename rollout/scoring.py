"""What a policy thinks of tokens that are given, for evaluation by likelihood."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from cispo.policy.hf import TransformersPolicy
from cispo.policy.lightning.model import LightningModel
from rollout.backends.base import TopLogprobs

_POSITIONS = 512
"""Positions whose logits exist at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Log-probabilities of the second to the last of T tokens, at temperature 1.

    Attributes:
        logprobs: [T - 1] in nats.
        top_logprobs: [T - 1] the likeliest tokens at each position; empty where not asked for.
    """

    logprobs: Sequence[float]
    top_logprobs: Sequence[TopLogprobs]


@torch.no_grad()
def score_tokens(
    policy: LightningModel | TransformersPolicy, token_ids: Sequence[int], top_logprobs: int
) -> Scores:
    """Score a text in one pass.

    Args:
        policy: With the present weights.
        token_ids: T tokens.
        top_logprobs: Likeliest tokens to report at each position.
    """
    tokens = torch.tensor(token_ids, device=next(policy.parameters()).device)
    logprobs: list[float] = []
    tops: list[TopLogprobs] = []
    hidden = torch.split(_hidden(policy, tokens)[:-1], _POSITIONS)
    for chunk, following in zip(hidden, torch.split(tokens[1:], _POSITIONS), strict=True):
        scores = _logits(policy, chunk).log_softmax(dim=-1)
        logprobs += scores.gather(1, following[:, None])[:, 0].tolist()
        if top_logprobs:
            values, ids = scores.topk(min(top_logprobs, scores.shape[1]), dim=-1)
            rows = zip(ids.tolist(), values.tolist(), strict=True)
            tops += [list(zip(*row, strict=True)) for row in rows]
    return Scores(logprobs=logprobs, top_logprobs=tops)


def _hidden(policy: LightningModel | TransformersPolicy, tokens: Tensor) -> Tensor:
    """Hidden states [T, d] before the head."""
    if isinstance(policy, LightningModel):
        return policy.hidden(tokens, torch.tensor([0, len(tokens)], device=tokens.device).int())[0]
    output = policy.network.base_model(input_ids=tokens[None], use_cache=False)
    hidden: Tensor = output.last_hidden_state[0]
    return hidden


def _logits(policy: LightningModel | TransformersPolicy, hidden: Tensor) -> Tensor:
    """Float32 logits [N, V] of hidden states [N, d]."""
    if isinstance(policy, LightningModel):
        return policy.logits(hidden)
    head = policy.network.get_output_embeddings()
    bias = getattr(head, "bias", None)
    return F.linear(hidden.float(), head.weight.float(), None if bias is None else bias.float())
