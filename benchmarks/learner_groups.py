"""Learners of several sizes in Ray actors, for what moves weights; a part of other benchmarks."""

import asyncio
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cispo.config import LearnerConfig, ObjectiveConfig, PolicyConfig
from cispo.learner.group import LearnerGroup
from cispo.types import PolicyVersion, Rollout, Sample, StopReason

GB = 1e9
STARTUP_SECONDS = 600.0
SETTINGS = ((0, 1), (3, 1), (0, 2), (3, 2))
"""ZeRO stage and ranks."""


def policy(width: int) -> PolicyConfig:
    """A new lightning hybrid of 8 layers, in float32."""
    return PolicyConfig(
        architecture={
            "hidden_size": width,
            "intermediate_size": 2 * width,
            "num_hidden_layers": 8,
            "num_attention_heads": width // 64,
            "num_key_value_heads": 2,
            "head_dim": 64,
            "rotary_dim": 32,
            "layer_types": ["linear_attention"] * 7 + ["full_attention"],
        }
    )


@asynccontextmanager
async def learner_group(
    width: int, *, zero_stage: int, num_ranks: int
) -> AsyncIterator[LearnerGroup]:
    """Start a DeepSpeed learner, and stop it."""
    group = await LearnerGroup.start(
        policy(width),
        LearnerConfig(zero_stage=zero_stage, num_ranks=num_ranks),
        ObjectiveConfig(),
        temperature=1.0,
        seed=0,
        startup_seconds=STARTUP_SECONDS,
    )
    try:
        yield group
    finally:
        group.stop()
        await asyncio.sleep(1.0)  # until Ray has taken its memory back


def samples(count: int, *, tokens: int) -> list[Sample]:
    """Rollouts of random tokens, all of one group."""
    draw = random.Random(0)
    return [
        Sample(
            rollout=Rollout(
                task_id="benchmark",
                token_ids=[draw.randrange(1000) for _ in range(tokens)],
                action_mask=[False] + [True] * (tokens - 1),
                behaviour_logprobs=[0.0] + [-7.0] * (tokens - 1),
                text="",
                stop_reason=StopReason.LENGTH,
                oldest_version=PolicyVersion(1),
                newest_version=PolicyVersion(1),
            ),
            advantage=1.0 if index % 2 else -1.0,
            group_index=0,
        )
        for index in range(count)
    ]


def cores() -> int:
    """Processors of this machine."""
    return os.cpu_count() or 1
