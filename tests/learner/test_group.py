"""The learner as Ray actors: one and several ranks against the reference in this process."""

import asyncio
import os
import resource
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from torch import Tensor

from cispo.config import LearnerConfig, ObjectiveConfig, OptimizerConfig, PolicyConfig
from cispo.errors import (
    CheckpointError,
    ConfigError,
    DivergedError,
    LearnerError,
    LearnerLostError,
)
from cispo.learner.build import build_policy
from cispo.learner.group import LearnerGroup
from cispo.stacks import Dump
from cispo.types import PolicyVersion, Sample
from tests.fakes import FakeProgress
from tests.learner.tables import (
    ADAMW,
    LINEAR,
    local_learner,
    make_rule,
    random_samples,
    tensors,
    with_behaviour,
)
from tests.waiting import PATIENCE_SECONDS

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_session")]

POLICY = PolicyConfig(
    architecture={
        "vocab_size": 1024,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "rotary_dim": 8,
        "layer_types": ["linear_attention", "full_attention", "linear_attention"],
        "num_local_experts": 3,
        "num_experts_per_tok": 2,
    }
)
OBJECTIVE = ObjectiveConfig(ratio_max=2.0)
BUDGET = 40


async def start(
    optimizer: dict[str, Any], *, progress: FakeProgress | None = None, **config: Any
) -> LearnerGroup:
    settings = {"num_ranks": 1, "startup_seconds": 200.0} | config
    seconds = settings.pop("startup_seconds")
    return await LearnerGroup.start(
        settings.pop("policy", POLICY),
        LearnerConfig(
            micro_batch_tokens=BUDGET,
            num_cpus=settings.pop("num_cpus", 0.5),
            optimizer=OptimizerConfig(**optimizer),
            # The balance loss of a micro-batch depends on which sequences share it.
            router_aux_loss_coef=0.0,
            **settings,
        ),
        OBJECTIVE,
        temperature=0.8,
        seed=3,
        startup_seconds=seconds,
        progress=progress,
    )


async def weights(group: LearnerGroup, version: int = 1) -> dict[str, Tensor]:
    export = await group.export_weights(PolicyVersion(version))
    return tensors(ticket.fetch() for ticket in export.tickets)


def by_hand(samples: Sequence[Any]) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Metrics and weights after one step of the reference learner."""
    policy = build_policy(POLICY, seed=3)
    rule = make_rule(micro_batch_tokens=BUDGET, temperature=0.8)
    learner = local_learner(policy, rule, **LINEAR)
    list(learner.buckets(version=1, max_bytes=10**6))
    metrics = dict(learner.step(samples))
    return metrics, {name: p.detach() for name, p in policy.named_parameters()}


@pytest.mark.parametrize(
    ("backend", "num_ranks", "stage"),
    [("local", 1, 0), ("deepspeed", 1, 1), ("deepspeed", 2, 3)],
)
async def test_every_learner_has_the_gradient_of_the_reference(
    backend: str, num_ranks: int, stage: int
) -> None:
    samples = random_samples(11, vocabulary=1024)
    group = await start(LINEAR, backend=backend, num_ranks=num_ranks, zero_stage=stage)
    try:
        before = await weights(group)
        found = dict(await group.step(samples))
        after = await weights(group, 2)
        expected, stepped = by_hand(samples)
        if num_ranks == 2:
            broken = [*samples[:4], with_behaviour(samples[4], float("nan")), *samples[5:]]
            with pytest.raises(DivergedError, match=r"^optimizer step 1 .* task-1, token"):
                await group.step(broken)
            unchanged = await weights(group, 2)
            assert all(torch.equal(unchanged[name], after[name]) for name in after)
            await group.step(samples)
    finally:
        group.stop()
    for metrics in (found, expected):
        for name in ("learn/micro_batches", "learn/padding_fraction", "learn/aux_loss"):
            del metrics[name]
    assert found == pytest.approx(expected, rel=2e-5, abs=1e-6)
    assert before.keys() == stepped.keys()
    for name, old in before.items():
        ours, reference = after[name] - old, stepped[name] - old
        scale = reference.abs().max().item()
        assert (ours - reference).abs().max().item() <= 1e-3 * scale + 2e-7, name


async def test_after_a_rank_died_the_error_names_it_and_a_new_group_continues_to_the_bit(
    tmp_path: Path,
) -> None:
    """The ranks share rows, and one of them had no room for another checkpoint before."""
    updates = [random_samples(7, seed=seed, vocabulary=1024) for seed in range(4)]
    group = await start(ADAMW, num_ranks=2, zero_stage=1, sequence_parallel=2)
    try:
        first = await group.step(updates[0])
        await group.step(updates[1])
        (saved := tmp_path / "saved").mkdir()
        await group.save(saved)
        await refuse_a_full_disk_of_one_rank(group, tmp_path)
        expected = [await group.step(update) for update in updates[2:]]
        final = await weights(group)
        ray.kill(group._ranks[1])
        # and does not wait for what the other rank waits for: half an hour of the process group
        async with asyncio.timeout(PATIENCE_SECONDS):
            with pytest.raises(LearnerLostError, match=r"learner ranks? (0, )?1 of 2 died"):
                await group.step(updates[0])
    finally:
        group.stop()
    norm = by_hand(updates[0])[0]["learn/grad_norm"]
    assert first["learn/grad_norm"] == pytest.approx(norm, rel=1e-5)
    successor = await start(ADAMW, num_ranks=2, zero_stage=1, sequence_parallel=2)
    try:
        await successor.restore(saved)
        assert [await successor.step(update) for update in updates[2:]] == expected
        found = await weights(successor)
        await blame_a_rank_that_hangs(successor, updates[0])
    finally:
        successor.stop()
    assert all(torch.equal(found[name], final[name]) for name in final)


async def refuse_a_full_disk_of_one_rank(group: LearnerGroup, folder: Path) -> None:
    """Let rank 1 write short files only; no rank waits for ever at a barrier."""
    kind = resource.RLIMIT_FSIZE
    limits = await group._ranks[1].__ray_call__.remote(lambda _: resource.getrlimit(kind))
    short = (50_000, limits[1])
    await group._ranks[1].__ray_call__.remote(lambda _: resource.setrlimit(kind, short))
    async with asyncio.timeout(PATIENCE_SECONDS):
        with pytest.raises(CheckpointError, match=r"^zero_pp_rank_1_.*\(.* bytes are free\)$"):
            await group.save(folder)
    await group._ranks[1].__ray_call__.remote(lambda _: resource.setrlimit(kind, limits))


async def blame_a_rank_that_hangs(group: LearnerGroup, samples: Sequence[Sample]) -> None:
    """Stop rank 1, for which rank 0 then waits in a collective."""
    pid = await group._ranks[1].__ray_call__.remote(lambda _: os.getpid())
    os.kill(pid, signal.SIGSTOP)
    group._step_seconds = 1.0
    group._dump = lambda: Dump(path=Path("stacks-1.txt"), silent={"learner rank 1": "stopped"})
    with pytest.raises(LearnerLostError) as error:
        await group.step(samples)
    assert str(error.value) == (
        "learner rank 1 of 2 gave no answer to step in learner.step_seconds=1 s (stopped); "
        "stacks: stacks-1.txt"
    )
    group._dump = None
    with pytest.raises(LearnerLostError, match=r"learner ranks 0, 1 of 2 gave no answer to step"):
        await group.step(samples)


async def test_ranks_that_cannot_start_are_named() -> None:
    progress = FakeProgress()
    with pytest.raises(LearnerError, match="rank 0 of 2 not ready in time"):
        await start(ADAMW, num_ranks=2, num_cpus=500.0, startup_seconds=3.0, progress=progress)
    assert any("rank 0" in text for text in progress.waited)


async def test_a_policy_that_is_not_there_is_the_users_error() -> None:
    with pytest.raises(ConfigError, match=r"policy\.path=/nowhere"):
        await start(ADAMW, backend="local", policy=PolicyConfig(path="/nowhere"))
