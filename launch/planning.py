"""Makes a plan from a configuration, and prints it."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from statistics import fmean

from cispo.config import Offload
from cispo.config.plan import PlanConfig
from cispo.plan.architecture import Architecture
from cispo.plan.lengths import Lengths
from cispo.plan.memory import Memory
from cispo.plan.simulate import Speeds, Workload, simulate
from cispo.plan.simulated import Simulation
from cispo.plan.timing import (
    LearnTime,
    decode_step_seconds,
    learn_time,
    prefill_seconds,
    publish_seconds,
)
from cispo.seeding import stream_seed
from launch.plan_architecture import architecture_of
from launch.plan_fit import check_devices, check_fit, engine_of, learner_of, number_bytes_of

_QUANTILES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run will do, need and cost.

    Attributes:
        architecture: The policy.
        lengths: Of rollouts.
        context_tokens: Of a running sequence on average, prompt included.
        sampled_rollouts: Of an iteration, dropped ones included.
        engine: Memory of one device of an engine.
        learner: Memory of one rank.
        sync_bytes: Of the weights, once.
        learn: Seconds of an iteration's updates.
        seconds: Of an iteration by part, each as if alone.
        simulation: All parts together.
        sandbox_seconds: Processor time in sandboxes of an iteration.
        num_devices: Of engines and learner.
        hours: Of all iterations.
        price: Of all devices for that time.
    """

    architecture: Architecture
    lengths: Lengths
    context_tokens: float
    sampled_rollouts: float
    engine: Memory
    learner: Memory
    sync_bytes: int
    learn: LearnTime
    seconds: dict[str, float]
    simulation: Simulation
    sandbox_seconds: float
    num_devices: float
    hours: float
    price: float

    @property
    def bottleneck(self) -> str:
        """The part that takes most of an iteration."""
        return max(self.seconds, key=lambda part: self.seconds[part])


def run_planning(cfg: PlanConfig) -> None:
    """Print the plan, and write it where that is wanted.

    Raises:
        ConfigError: The run cannot fit, or its policy is not known.
    """
    from launch.plan_text import as_json, as_text

    plan = make_plan(cfg)
    print(as_text(cfg, plan))
    if cfg.output is not None:
        path = Path(cfg.output)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(as_json(cfg, plan), indent=1) + "\n", encoding="utf-8")


def make_plan(cfg: PlanConfig) -> Plan:
    """Compute everything that the plan holds.

    Raises:
        ConfigError: The run cannot fit, or its policy is not known.
    """
    check_devices(cfg)
    architecture = architecture_of(cfg.policy)
    budget = cfg.rollout.sampling.max_new_tokens
    lengths = Lengths(
        mean_tokens=cfg.assume.mean_tokens or max(1.0, budget / 2),
        spread=cfg.assume.spread,
        budget_tokens=budget,
    )
    context = context_tokens(lengths, cfg.assume.prompt_tokens)
    engine = engine_of(cfg, architecture, context)
    learner = learner_of(cfg, architecture)
    check_fit(cfg, architecture, engine, learner, context_tokens=context)
    learn = _learn_time(cfg, architecture, lengths)
    publish = publish_seconds(
        architecture,
        cfg.machine,
        number_bytes=number_bytes_of(cfg),
        num_engines=cfg.rollout.num_actors,
        transport=cfg.weights.transport,
    )
    simulation = _simulate(cfg, architecture, lengths, context, learn.total, publish)
    sampled = cfg.tasks_per_iteration * cfg.group_size / (1 - dropped_fraction(cfg))
    seconds = {
        "engine": fmean(simulation.engine_busy_seconds) / len(simulation.iterations),
        "learner": learn.total,
        "rewards": sampled * cfg.assume.grade_seconds / num_graders(cfg),
        "sync": publish,
    }
    devices = num_devices(cfg)
    further = cfg.iterations - len(simulation.iterations)
    hours = (simulation.wall_seconds + further * simulation.steady_seconds) / 3600
    return Plan(
        architecture=architecture,
        lengths=lengths,
        context_tokens=context,
        sampled_rollouts=sampled,
        engine=engine,
        learner=learner,
        sync_bytes=architecture.weight_bytes(number_bytes_of(cfg)),
        learn=learn,
        seconds=seconds,
        simulation=simulation,
        sandbox_seconds=sampled * cfg.assume.sandbox_seconds,
        num_devices=devices,
        hours=hours,
        price=hours * devices * cfg.machine.price_per_hour,
    )


def context_tokens(lengths: Lengths, prompt_tokens: int) -> float:
    """Tokens before a sampled token on average: long rollouts are met more often."""
    some = lengths.spread_out(_QUANTILES)
    return prompt_tokens + sum(n * n for n in some) / (2 * sum(some))


def dropped_fraction(cfg: PlanConfig) -> float:
    """Share of groups that dynamic sampling drops."""
    return cfg.assume.dropped_fraction if cfg.objective.dynamic_sampling else 0.0


def num_graders(cfg: PlanConfig) -> int:
    """Rollouts that are graded at once."""
    at_once = cfg.sandbox.max_concurrent if cfg.assume.sandbox_seconds > 0 else 1
    return cfg.reward.num_workers * at_once


def num_devices(cfg: PlanConfig) -> float:
    """Devices that learner and engines reserve; cores can be reserved more than once."""
    if cfg.machine.is_gpu:
        engines = cfg.rollout.num_actors * cfg.rollout.num_gpus
        return engines + cfg.learner.num_ranks * cfg.learner.num_gpus
    return float(cfg.machine.devices_per_host)


def _learn_time(cfg: PlanConfig, architecture: Architecture, lengths: Lengths) -> LearnTime:
    return learn_time(
        architecture,
        cfg.machine,
        lengths=[cfg.assume.prompt_tokens + n for n in lengths.spread_out(_QUANTILES)],
        num_rollouts=cfg.tasks_per_iteration * cfg.group_size,
        num_updates=cfg.updates_per_iteration,
        micro_batch_tokens=cfg.learner.micro_batch_tokens,
        num_ranks=cfg.learner.num_ranks,
        devices_per_rank=cfg.learner.num_gpus if cfg.machine.is_gpu else cfg.learner.num_cpus,
        sequence_parallel=cfg.learner.sequence_parallel,
        zero_stage=cfg.learner.zero_stage,
        recompute_layers=cfg.policy.recompute_layers,
        number_bytes=number_bytes_of(cfg),
        is_offloaded=cfg.learner.offload != Offload.NONE,
    )


def _simulate(
    cfg: PlanConfig,
    architecture: Architecture,
    lengths: Lengths,
    context: float,
    learn_seconds: float,
    publish: float,
) -> Simulation:
    devices = cfg.rollout.num_gpus if cfg.machine.is_gpu else cfg.rollout.num_cpus
    location = lengths.location()
    dropped = dropped_fraction(cfg)
    mean_learned = cfg.tasks_per_iteration * cfg.group_size * lengths.mean_tokens
    # A group's prompt is read once; each token that is sampled pays its share of that.
    prefill = prefill_seconds(
        architecture,
        cfg.machine,
        prompt_tokens=cfg.assume.prompt_tokens,
        num_devices=max(1, round(devices)),
    ) / (cfg.group_size * lengths.mean_tokens)

    @cache
    def members(index: int) -> tuple[int, ...]:
        random = Random(stream_seed(cfg.seed, "plan", "lengths", index))
        return tuple(
            max(1, round(lengths.at(location, max(random.random(), 1e-12))))
            for _ in range(cfg.group_size)
        )

    @cache
    def is_dropped(index: int) -> bool:
        return Random(stream_seed(cfg.seed, "plan", "drops", index)).random() < dropped

    @cache
    def step_seconds(num_sequences: int) -> float:
        decode = decode_step_seconds(
            architecture,
            cfg.machine,
            num_sequences=num_sequences,
            context_tokens=context,
            number_bytes=number_bytes_of(cfg),
            num_devices=max(1, round(devices)),
        )
        return decode + num_sequences * prefill

    return simulate(
        Workload(
            iterations=min(cfg.assume.iterations, cfg.iterations),
            tasks_per_iteration=cfg.tasks_per_iteration,
            group_size=cfg.group_size,
            max_staleness=cfg.max_staleness,
            length=lambda index, member: members(index)[member],
            is_dropped=is_dropped,
        ),
        Speeds(
            num_engines=cfg.rollout.num_actors,
            max_sequences=cfg.rollout.max_sequences,
            step_seconds=step_seconds,
            learn_seconds=lambda tokens: learn_seconds * tokens / mean_learned,
            num_graders=num_graders(cfg),
            grade_seconds=cfg.assume.grade_seconds,
            publish_seconds=publish,
            pause_seconds=0.0,
        ),
    )
