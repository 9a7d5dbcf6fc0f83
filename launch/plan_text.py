"""A plan as text for people and as JSON for programs."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from cispo.config.plan import PlanConfig
from cispo.plan.architecture import Architecture
from cispo.plan.comparison import K, compare
from cispo.plan.flops import cost
from cispo.plan.memory import Memory
from cispo.plan.published import M1
from launch.planning import Plan, dropped_fraction, num_graders

_GIB = 2**30


def as_text(cfg: PlanConfig, plan: Plan) -> str:
    """All sections, one below the other."""
    sections = {
        f"Plan of {cfg.name}": batch_words(cfg, plan),
        "Policy": _policy_words(plan.architecture),
        "Operations by length": _table(
            ("tokens", "generate", "learn", "a token then"), _operation_rows(cfg, plan)
        ),
        "Memory": _memory_words(cfg, plan),
        "Seconds of an iteration": _seconds_words(cfg, plan),
        "Simulated pipeline": _simulation_words(plan),
        "Cost": _cost_words(cfg, plan),
        "Assumed": _assumptions(cfg, plan),
    }
    if is_m1(plan.architecture):
        sections["MiniMax-M1 against DeepSeek-R1"] = _comparison_words()
    return "\n\n".join(
        "\n".join([title, *(f"  {line}" for line in lines)]) for title, lines in sections.items()
    )


def as_json(cfg: PlanConfig, plan: Plan) -> dict[str, Any]:
    """Numbers in base units: bytes, seconds, operations."""
    model, simulation = plan.architecture, plan.simulation
    forward = cost(model)
    return {
        "name": cfg.name,
        "machine": asdict(cfg.machine),
        "assumed": asdict(cfg.assume),
        "batch": batch_words(cfg, plan),
        "parameters": model.parameters,
        "active_parameters": model.active_parameters,
        "operations_per_token": forward.per_token,
        "operations_per_square": forward.per_square,
        "engine_bytes": dict(plan.engine.parts),
        "learner_bytes": dict(plan.learner.parts),
        "learner_host_bytes": dict(plan.learner.host_parts),
        "sync_bytes": plan.sync_bytes,
        "sampled_rollouts": plan.sampled_rollouts,
        "sandbox_seconds": plan.sandbox_seconds,
        "learn_seconds": {**asdict(plan.learn), "total": plan.learn.total},
        "seconds": plan.seconds,
        "bottleneck": plan.bottleneck,
        "simulated": {
            "iterations": len(simulation.iterations),
            "iteration_seconds": simulation.iteration_seconds,
            "steady_seconds": simulation.steady_seconds,
            "engine_fraction": simulation.engine_fraction,
            "learner_fraction": simulation.learner_fraction,
            "waiting_fraction": simulation.waiting_fraction,
            "batch_fraction": simulation.batch_fraction,
            "staleness_mean": simulation.staleness_mean,
            "staleness_rollouts": {str(k): n for k, n in simulation.staleness_counts.items()},
            "learned_tokens_per_second": simulation.learned_tokens_per_second,
        },
        "devices": plan.num_devices,
        "hours": plan.hours,
        "price": plan.price,
        **({"m1_against_r1": [asdict(row) for row in compare()]} if is_m1(model) else {}),
    }


def is_m1(architecture: Architecture) -> bool:
    """Whether a model has MiniMax-M1's sizes, so that the paper's comparison is about it."""
    return (architecture.parameters, architecture.blocks) == (M1.parameters, M1.blocks)


def batch_words(cfg: PlanConfig, plan: Plan) -> list[str]:
    """What an iteration is, in words."""
    rollouts = cfg.tasks_per_iteration * cfg.group_size
    slice_tasks = cfg.tasks_per_iteration // cfg.updates_per_iteration
    words = [
        f"{cfg.tasks_per_iteration:,} tasks x {cfg.group_size} = {rollouts:,} rollouts -> "
        f"{cfg.updates_per_iteration} updates of {slice_tasks * cfg.group_size:,} "
        f"({slice_tasks:,} tasks each)",
        f"{cfg.iterations:,} iterations, {cfg.iterations * cfg.updates_per_iteration:,} updates, "
        f"{cfg.iterations * rollouts:,} rollouts learned from",
        "synchronous: sampling waits for learning"
        if cfg.max_staleness == 0
        else f"sampling runs ahead by at most {cfg.max_staleness} iterations",
    ]
    if dropped_fraction(cfg) > 0:
        words.insert(
            1,
            f"dynamic sampling drops {dropped_fraction(cfg):.0%} of groups: "
            f"{plan.sampled_rollouts:,.0f} rollouts are sampled and graded",
        )
    words.append(
        f"{plan.learn.num_passes:,} passes of up to {cfg.learner.micro_batch_tokens:,} tokens on "
        f"{cfg.learner.num_ranks // cfg.learner.sequence_parallel:,} rows at once"
    )
    return words


def _policy_words(model: Architecture) -> list[str]:
    return [
        f"{model.parameters:,} parameters; {_count(model.active_parameters)} active without "
        f"embeddings, {_count(model.active_parameters_with_head)} with the head",
        f"{model.num_layers} layers, {model.num_lightning_layers} of them lightning",
    ]


def _operation_rows(cfg: PlanConfig, plan: Plan) -> list[tuple[str, ...]]:
    """By action tokens: of one rollout behind a prompt that its group shares."""
    forward, prompt = cost(plan.architecture), cfg.assume.prompt_tokens
    budget = cfg.rollout.sampling.max_new_tokens
    factor = 4 if cfg.policy.recompute_layers else 3
    lengths = sorted({*(budget // 2**i for i in range(5) if budget >= 2**i)})
    return [
        (
            f"{length:,}",
            _operations(forward.span(prompt, prompt + length)
                        + forward.total(prompt) / cfg.group_size),
            _operations(factor * forward.total(prompt + length)),
            _operations(forward.marginal(prompt + length)),
        )
        for length in lengths
    ]  # fmt: skip


def _memory_words(cfg: PlanConfig, plan: Plan) -> list[str]:
    unit = "GPU" if cfg.machine.is_gpu else "process"
    usable = cfg.machine.usable_bytes / _GIB
    rows = [
        *_memory_rows("engine", plan.engine),
        *_memory_rows("learner", plan.learner),
    ]
    return [
        f"of each {unit}; {usable:,.1f} GiB "
        + ("are usable" if cfg.machine.is_gpu else "are usable by all together"),
        *_table(("phase", "what", "GiB"), rows),
        f"weights to publish: {plan.sync_bytes:,} bytes",
    ]


def _memory_rows(phase: str, memory: Memory) -> list[tuple[str, ...]]:
    rows = [(phase, name, _gib(size)) for name, size in memory.parts.items() if size]
    rows += [
        (phase, f"{name}, on the host", _gib(size))
        for name, size in memory.host_parts.items()
        if size
    ]
    return [*rows, (phase, "together on the device", _gib(memory.total))]


def _seconds_words(cfg: PlanConfig, plan: Plan) -> list[str]:
    learn = plan.learn
    return [
        *_table(("part", "seconds"), [(name, f"{s:,.2f}") for name, s in plan.seconds.items()]),
        f"bottleneck: {plan.bottleneck}",
        f"learner: {learn.compute:,.2f} computing beside {learn.communication:,.2f} sending, "
        f"{learn.optimizer:,.2f} in the optimizer, {learn.constant:,.2f} constant",
        f"rewards: {num_graders(cfg)} rollouts graded at once, "
        f"{plan.sandbox_seconds:,.0f} sandbox-seconds",
    ]


def _simulation_words(plan: Plan) -> list[str]:
    s = plan.simulation
    return [
        f"{len(s.iterations)} iterations, {s.steady_seconds:,.2f} s from one to the next: engines "
        f"busy {s.engine_fraction:.0%} with {s.batch_fraction:.0%} of their sequences, learner "
        f"busy {s.learner_fraction:.0%} and waiting {s.waiting_fraction:.0%}",
        f"{s.learned_tokens_per_second:,.0f} action tokens a second learned from",
        f"staleness {s.staleness_mean:.2f} on average; rollouts by staleness: "
        + ", ".join(f"{age}: {count:,}" for age, count in s.staleness_counts.items()),
    ]


def _cost_words(cfg: PlanConfig, plan: Plan) -> list[str]:
    unit = "GPU" if cfg.machine.is_gpu else "core"
    return [
        f"{plan.hours:,.2f} hours on {plan.num_devices:,g} {unit}s ({cfg.machine.name}): "
        f"{plan.hours * plan.num_devices:,.1f} {unit}-hours x "
        f"{cfg.machine.currency}{cfg.machine.price_per_hour:g} = "
        f"{cfg.machine.currency}{plan.price:,.2f}",
        "without evaluations, checkpoints, start-up and failures",
    ]


def _assumptions(cfg: PlanConfig, plan: Plan) -> list[str]:
    words = [
        f"rollouts of {plan.lengths.mean_tokens:,.0f} tokens on average, 99% within "
        f"{plan.lengths.quantile(0.99):,.0f}, {plan.lengths.cut_fraction():.1%} cut at the budget "
        f"of {plan.lengths.budget_tokens:,}; prompts of {cfg.assume.prompt_tokens:,}",
        f"{cfg.assume.grade_seconds:g} s to grade a rollout; change these by assume.KEY=VALUE, and "
        "the machine's achieved fractions by machine.KEY=VALUE",
    ]
    if cfg.machine.is_gpu and cfg.rollout.num_gpus > 1:
        words.append(
            f"an engine divides weights and caches evenly over {cfg.rollout.num_gpus:g} GPUs"
        )
    return words


def _comparison_words() -> list[str]:
    rows = [
        (
            row.name,
            f"{row.share_at_64k:.1%}",
            f"{row.share_at_100k:.1%}",
            f"{row.half_at / K:.1f}K",
            f"{row.quarter_at / K:.1f}K",
            f"{row.marginal_at_100k:.1%}",
        )
        for row in compare()
    ]
    heads = ("operations, M1 / R1", "at 64K", "at 100K", "half at", "quarter at", "token at 100K")
    return _table(heads, rows)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Columns that line up: words to the left, numbers to the right."""
    lines = [tuple(heads), *(tuple(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    sides = ["<" if not lines[-1][i][:1].isdigit() else ">" for i in range(len(heads))]
    return [
        "  ".join(
            f"{cell:{side}{width}}" for cell, side, width in zip(line, sides, widths, strict=True)
        ).rstrip()
        for line in lines
    ]


def _count(number: float) -> str:
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if number >= size:
            return f"{number / size:.2f}{unit}"
    return f"{number:g}"


def _operations(number: float) -> str:
    for size, unit in ((1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP")):
        if number >= size:
            return f"{number / size:,.2f} {unit}"
    return f"{number:,.0f} FLOP"


def _gib(size: float) -> str:
    return f"{size / _GIB:,.2f}" if size >= 0.01 * _GIB else f"{size / _GIB:.5f}"
