"""Models and batches on which learners are compared, as files that both sides read."""

import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from cispo.policy.lightning.checkpoint import save_lightning
from cispo.policy.lightning.config import FULL, LINEAR, LightningConfig
from cispo.policy.lightning.formats.layouts import Layout
from cispo.policy.lightning.model import LightningModel
from cispo.types import PolicyVersion, Rollout, Sample, StopReason

LONGEST = 2048
LONGEST_PROMPT = 96
GROUP_SIZE = 2
VOCABULARY, WIDTH, LAYERS, HEADS, KV_HEADS = 8192, 256, 8, 4, 2
INNER = {"hybrid": 512, "softmax": 768}
_MEAN = 0.4
"""Of the longest length, before lengths are cut to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """One rollout as both sides get it.

    Attributes:
        group: Which prompt it answers.
        prompt: Token ids.
        completion: Token ids.
        logprobs: log mu of the completion's tokens, in nats.
        reward: What it got.
        advantage: (reward - mean) / (std + 1e-4) within its group, as TRL computes it.
    """

    group: int
    prompt: list[int]
    completion: list[int]
    logprobs: list[float]
    reward: float
    advantage: float


def write_model(kind: str, folder: Path) -> int:
    """Write a float32 model with random weights that transformers can load; its parameters."""
    torch.manual_seed(0)
    model: torch.nn.Module
    if kind == "hybrid":
        model = LightningModel(
            LightningConfig(
                vocab_size=VOCABULARY,
                hidden_size=WIDTH,
                intermediate_size=INNER[kind],
                num_hidden_layers=LAYERS,
                num_attention_heads=HEADS,
                num_key_value_heads=KV_HEADS,
                head_dim=WIDTH // HEADS,
                rotary_dim=WIDTH // HEADS,  # transformers rotates whole heads
                layer_types=(LINEAR,) * (LAYERS - 1) + (FULL,),
                num_local_experts=1,
                num_experts_per_tok=1,
                slope_rule="transformers",
                block_size=256,  # transformers' default, and its fastest
            )
        )
        model.initialise(0)
        save_lightning(model, folder, layout=Layout.TRANSFORMERS4)
    else:
        model = Qwen3ForCausalLM(
            Qwen3Config(
                vocab_size=VOCABULARY,
                hidden_size=WIDTH,
                intermediate_size=INNER[kind],
                num_hidden_layers=LAYERS,
                num_attention_heads=HEADS,
                num_key_value_heads=KV_HEADS,
                head_dim=WIDTH // HEADS,
                tie_word_embeddings=False,
            )
        )
        model.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def equal_lengths(count: int, longest: int) -> list[int]:
    """All as long as can be."""
    return [longest] * count


def long_tail(count: int, longest: int) -> list[int]:
    """Log-normal lengths up to the longest, one of which is there."""
    draw = random.Random(0)
    drawn = [draw.lognormvariate(0.0, 0.9) for _ in range(count)]
    scale = _MEAN * longest * count / sum(drawn)
    lengths = sorted(max(16, min(longest, round(scale * value))) for value in drawn)
    lengths[-1] = longest
    draw.shuffle(lengths)
    return lengths


LENGTHS = {"equal": equal_lengths, "long tail": long_tail}


def batch(lengths: Sequence[int]) -> list[Given]:
    """Groups of rollouts with these lengths of completion; ratios to mu reach over the cap of 5."""
    draw = random.Random(1)
    given = []
    for group in range(len(lengths) // GROUP_SIZE):
        prompt = [draw.randrange(3, 1000) for _ in range(draw.randrange(32, LONGEST_PROMPT + 1))]
        rewards = [float(member % 2) for member in range(GROUP_SIZE)]
        mean = sum(rewards) / GROUP_SIZE
        std = math.sqrt(sum((r - mean) ** 2 for r in rewards) / (GROUP_SIZE - 1))
        for member, reward in enumerate(rewards):
            length = lengths[group * GROUP_SIZE + member]
            given.append(
                Given(
                    group=group,
                    prompt=prompt,
                    completion=[draw.randrange(3, 1000) for _ in range(length)],
                    logprobs=[-math.log(VOCABULARY) + draw.gauss(0.0, 1.0) for _ in range(length)],
                    reward=reward,
                    advantage=(reward - mean) / (std + 1e-4),
                )
            )
    return given


def write_batch(given: Sequence[Given], file: Path) -> None:
    """Write one JSON list."""
    names = Given.__slots__
    file.write_text(json.dumps([{name: getattr(g, name) for name in names} for g in given]))


def read_samples(file: Path) -> list[Sample]:
    """Read a batch as the learner takes it."""
    rows: list[dict[str, Any]] = json.loads(file.read_text())
    return [
        Sample(
            rollout=Rollout(
                task_id=f"task {row['group']}",
                token_ids=row["prompt"] + row["completion"],
                action_mask=[False] * len(row["prompt"]) + [True] * len(row["completion"]),
                behaviour_logprobs=[0.0] * len(row["prompt"]) + row["logprobs"],
                text="",
                stop_reason=StopReason.LENGTH,
                oldest_version=PolicyVersion(1),
                newest_version=PolicyVersion(1),
            ),
            advantage=row["advantage"],
            group_index=row["group"],
        )
        for row in rows
    ]
