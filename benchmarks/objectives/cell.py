"""One run: an objective on a task at a learning rate, with the project's own parts."""

import copy
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any, TypeAlias

from benchmarks.objectives.sampler import Sampler
from benchmarks.objectives.tasks import FAMILIES
from cispo.advantages import advantages
from cispo.config import AdvantageKind, ObjectiveConfig, OptimizerConfig
from cispo.diagnostics import describe
from cispo.drops import DropReason, drop_reason
from cispo.errors import DivergedError
from cispo.learner.local import LocalLearner
from cispo.learner.rule import update_rule
from cispo.policy.lightning.model import LightningModel
from cispo.types import Group, Metrics, PolicyVersion, Sample

Result: TypeAlias = dict[str, Any]

NUM_GROUPS, GROUP_SIZE, DEPTH = 32, 8, 16
BATCHES = {"t15": 8, "t04": 12, "c4": 8}
OBJECTIVES = {
    "cispo": ObjectiveConfig(kind="cispo", ratio_max=5.0, token_weighting="prompt"),
    "dapo": ObjectiveConfig(
        kind="ppo_clip", ratio_max=1.28, ratio_min=0.8, token_weighting="prompt"
    ),
    "grpo": ObjectiveConfig(
        kind="ppo_clip", ratio_max=1.2, ratio_min=0.8, token_weighting="sample"
    ),
}
"""CISPO and DAPO average as both papers print it, so that they differ in the clip alone."""

CURVES = (
    "accuracy/mean",
    "length/mean_tokens",
    "learn/updates",
    "learn/grad_norm",
    "learn/grad_norm/max",
    "entropy/mean_nats",
    "kl/k1_nats",
    "kl/k3_nats",
    "ratio/p01",
    "ratio/p99",
    "ratio/max",
    "weight/effective_sample_fraction",
    "weight/capped_fraction",
    "weight/capped_positive_fraction",
    "mismatch/max_nats",
)
"""What is kept of the metrics of each rollout batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What a run is made of.

    Attributes:
        task: Name of the task.
        objective: Name of the objective.
        lr: Learning rate.
        seed: Decides problems and sampling, not the first policy.
        depth: Updates of a rollout batch all of whose groups have a signal.
    """

    task: str
    objective: str
    lr: float
    seed: int
    depth: int = DEPTH


def run_cell(cell: Cell, first_policy: LightningModel, *, replays: bool = False) -> Result:
    """Learn for the task's number of rollout batches, and sample once more in the end.

    Returns:
        The cell, and `curves`: by name one number a rollout batch, None where there is none. What
        an update measures stands beside the batch that it learned from, whose accuracy is that of
        the policy before the updates.
    """
    began = time.process_time()
    learner = _learner(cell, copy.deepcopy(first_policy))
    sampler = Sampler(
        copy.deepcopy(first_policy),
        cell.task,
        FAMILIES[cell.task],
        seed=cell.seed,
        num_groups=NUM_GROUPS,
        group_size=GROUP_SIZE,
        replays=replays,
    )
    curves: dict[str, list[float | None]] = {name: [] for name in CURVES}
    diverged = None
    for number in range(BATCHES[cell.task] + 1):
        is_last = number == BATCHES[cell.task]
        sampler.load(learner, number + 1)
        groups = sampler.batch(number)
        try:
            metrics = _learn(
                learner, groups, version=number + 1, depth=0 if is_last else cell.depth
            )
        except DivergedError as error:
            diverged = {"batch": number, "error": str(error)}
            break
        for name, values in curves.items():
            value = metrics.get(name)
            values.append(None if value is None else float(f"{value:.4g}"))
    seconds = round(time.process_time() - began, 1)
    return {
        **asdict(cell),
        "cpu_seconds": seconds,
        "diverged": diverged,
        "curves": curves,
    }


def _learner(cell: Cell, policy: LightningModel) -> LocalLearner:
    optimizer = OptimizerConfig()
    rule = update_rule(
        OBJECTIVES[cell.objective],
        micro_batch_tokens=4096,
        temperature=1.0,
        router_aux_loss_coef=0.0,
    )
    return LocalLearner(
        policy.requires_grad_(True),
        rule,
        lr=cell.lr,
        beta1=optimizer.beta1,
        beta2=optimizer.beta2,
        eps=optimizer.eps,
        weight_decay=optimizer.weight_decay,
        warmup_steps=optimizer.warmup_steps,
        max_grad_norm=optimizer.max_grad_norm,
    )


def _learn(learner: LocalLearner, groups: Sequence[Group], *, version: int, depth: int) -> Metrics:
    """Learn from a rollout batch, for depth 0 not at all; returns what the loop would log."""
    dropped: dict[DropReason, list[Group]] = {}
    kept = []
    for group in groups:
        reason = drop_reason(group)
        if reason is None:
            kept.append(group)
        else:
            dropped.setdefault(reason, []).append(group)
    samples = advantages(kept, kind=AdvantageKind.GROUP_STD)
    learned = [learner.step(update) for update in slices(samples, depth)] if depth else []
    return describe(kept, samples, learned, version=PolicyVersion(version), dropped=dropped)


def slices(groups: Sequence[tuple[Sample, ...]], depth: int) -> Iterator[tuple[Sample, ...]]:
    """Cut groups into updates of one size: a solved task has fewer updates, not smaller ones.

    Adam takes steps of equal length from few samples and from many; on the last few groups with a
    signal they would be steps after noise.

    Args:
        groups: Samples of the groups with a signal.
        depth: Updates of a batch in which all groups have one.

    Returns:
        Updates of NUM_GROUPS / depth groups, where there are enough; those that are left over are
        spread over the updates. A batch with fewer than two groups has no update.
    """
    count = len(groups)
    if count < 2:
        return
    num_updates = max(1, count // (NUM_GROUPS // depth))
    for k in range(num_updates):
        part = groups[k * count // num_updates : (k + 1) * count // num_updates]
        yield tuple(chain.from_iterable(part))
