"""The same twenty updates by any learner: a small hybrid with experts, samples of three tasks."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cispo.learner.rule import UpdateRule
from cispo.policy.lightning.config import FULL, LINEAR
from cispo.policy.lightning.model import LightningModel
from tests.learner.tables import ADAMW, make_rule, random_samples, tensors
from tests.policy.models import make_model

UPDATES = 20
PACKINGS = {"packed": 40, "unpacked": 1}
"""Tokens of a micro-batch: three of about five sequences fit, or every sequence is alone."""

OPTIMIZER = {**ADAMW, "lr": 1e-3, "warmup_steps": 4}
VOCABULARY = 96


def small_model(**changes: Any) -> LightningModel:
    sizes = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "layer_types": (LINEAR, FULL),
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "rotary_dim": 4,
        "num_local_experts": 3,
        "num_experts_per_tok": 2,
    }
    return make_model(**{**sizes, **changes})


def train(start: Callable[[LightningModel, UpdateRule], Any], *, budget: int) -> dict[str, Any]:
    """Take all updates with a new learner.

    Returns:
        Losses and gradient norms, [UPDATES] each, and the exported weights.
    """
    learner = start(small_model(), make_rule(micro_batch_tokens=budget))
    steps = [
        learner.step(random_samples(5, seed=seed, vocabulary=VOCABULARY)) for seed in range(UPDATES)
    ]
    return {
        "losses": torch.tensor([step["learn/loss"] for step in steps]),
        "norms": torch.tensor([step["learn/grad_norm"] for step in steps]),
        "weights": exported(learner),
    }


def exported(learner: Any) -> dict[str, Tensor]:
    return tensors(learner.buckets(version=1, max_bytes=2**20))
