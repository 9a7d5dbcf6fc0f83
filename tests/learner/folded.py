"""Learners that are saved, and restored over another number of ranks, in processes of their own.

`python -m tests.learner.folded FOLDER RANK NUM_RANKS PORT` is one rank.
"""

import json
import os
import sys
from pathlib import Path

import torch
from torch import nn

from cispo.policy.base import TokenScores
from cispo.types import Metrics
from tests.learner.tables import ADAMW, TablePolicy, make_rule, random_samples, tensors

STAGES = (
    (0, torch.float32),
    (1, torch.float32),
    (2, torch.float32),
    (3, torch.float32),
    (1, torch.bfloat16),
    (3, torch.bfloat16),
)
NUM_RANKS = 2
SEEDS_BEFORE, SEEDS_AFTER = range(3), range(3, 6)


class ThreeTables(TablePolicy):
    """Three parameters, none of whose sizes two ranks divide evenly."""

    def __init__(self, *, seed: int = 0) -> None:
        super().__init__(seed=seed)
        self.slope = nn.Parameter(torch.full((7,), 0.5 + seed))
        self.scale = nn.Parameter(torch.full((1, 3), 1.0 + seed))

    def forward(self, *arguments: object, **options: object) -> TokenScores:
        scores = super().forward(*arguments, **options)  # type: ignore[arg-type]
        factor = self.slope.float().mean() * self.scale.float().mean()
        return TokenScores(scores.logprobs * factor, *scores[1:])


def name_of(num_ranks: int, stage: int, dtype: torch.dtype) -> str:
    return f"{num_ranks}-{stage}-{str(dtype).removeprefix('torch.')}"


def deepspeed(stage: int, dtype: torch.dtype, *, seed: int = 0):  # type: ignore[no-untyped-def]
    from cispo.learner.deepspeed import DeepSpeedLearner

    rule = make_rule(micro_batch_tokens=20)
    return DeepSpeedLearner(ThreeTables(seed=seed).to(dtype), rule, zero_stage=stage, **ADAMW)


def steps(learner, seeds: range) -> list[Metrics]:  # type: ignore[no-untyped-def]
    """Loss and norm of some steps."""
    taken = [learner.step(random_samples(6, seed=seed)) for seed in seeds]
    return [{key: m[key] for key in ("learn/loss", "learn/grad_norm")} for m in taken]


def rank(folder: Path) -> None:
    """Save each learner after some steps, and note what it does next; restore those of one rank."""
    for stage, dtype in STAGES:
        learner = deepspeed(stage, dtype)
        steps(learner, SEEDS_BEFORE)
        saved = folder / name_of(NUM_RANKS, stage, dtype)
        saved.mkdir(exist_ok=True)
        torch.distributed.barrier()
        learner.save(saved)
        note(saved.with_suffix(".json"), steps(learner, SEEDS_AFTER))
        weights = tensors(learner.buckets(version=1, max_bytes=1000))
        if weights:
            torch.save(weights, saved.with_suffix(".pt"))
    for stage in (1, 3):
        learner = deepspeed(stage, torch.float32, seed=9)
        learner.restore(folder / name_of(1, 1, torch.float32))
        note(folder / f"to-two-ranks-{stage}.json", steps(learner, SEEDS_AFTER))


def note(path: Path, metrics: list[Metrics]) -> None:
    if torch.distributed.get_rank() == 0:
        path.write_text(json.dumps(metrics))


def main(folder: str, number: str, num_ranks: str, port: str) -> None:
    os.environ["DS_ACCELERATOR"] = "cpu"
    from cispo.learner.engine import join_process_group

    join_process_group(rank=int(number), num_ranks=int(num_ranks), host="127.0.0.1", port=int(port))
    rank(Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
